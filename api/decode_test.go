package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tollgate-io/tollgate/domain/app"
	"github.com/tollgate-io/tollgate/domain/invalid"
)

var decodeClock = time.Date(2026, 4, 5, 10, 31, 0, 0, time.UTC)

// decodeAndCheck is what happens to an event up to the log: it is decoded, its tenant is named, the domain's rules hold.
func decodeAndCheck(text string, into *app.Submission) error {
	d := new(decoder)
	if err := d.event([]byte(text), "", decodeClock, into); err != nil {
		return err
	}
	if into.Tenant == "" {
		into.Tenant = "acme"
	}
	return into.Check(decodeClock)
}

func TestHostileEvents(t *testing.T) {
	good := `{"eventType":"t","sourceId":"s","occurredAt":"2026-04-05T10:30:00Z"`
	with := func(more string) string { return good + "," + more + "}" }
	replace := func(old, replacement string) string { return strings.Replace(good+"}", old, replacement, 1) }
	deep := strings.Repeat(`{"a":`, 8) + "1" + strings.Repeat("}", 8)
	for name, c := range map[string]struct{ text, pointer, code string }{
		"unknown":                     {with(`"colour":1`), "/colour", "invalid_event"},
		"unknown, with a slash":       {with(`"a/b":1`), "/a~1b", "invalid_event"},
		"unknown, very long":          {with(`"` + strings.Repeat("x", 10_000) + `":1`), "", "invalid_event"},
		"case variant":                {with(`"Quantity":1`), "/Quantity", "invalid_event"},
		"case variant of a letter":    {with(`"ſourceId":"x"`), "/ſourceId", "invalid_event"},
		"duplicate":                   {with(`"sourceId":"s"`), "/sourceId", "invalid_event"},
		"duplicate through an escape": {with(`"source\u0049d":"s"`), "/sourceId", "invalid_event"},
		"name with NUL":               {with(`"tenantId\u0000":"s"`), "", "invalid_event"},
		"name that is not UTF-8":      {with("\"tenantId\xff\":1"), "", "invalid_event"},
		"NUL in an id":                {replace(`"s"`, `"a\u0000b"`), "/sourceId", "invalid_event"},
		"control character":           {replace(`"s"`, `"a\nb"`), "/sourceId", "invalid_event"},
		"raw control character":       {replace(`"s"`, "\"a\x01b\""), "", "invalid_json"},
		"lone surrogate":              {replace(`"s"`, `"\ud800"`), "/sourceId", "invalid_json"},
		"reversed surrogates":         {replace(`"s"`, `"\udc00\ud800"`), "/sourceId", "invalid_json"},
		"not UTF-8":                   {replace(`"s"`, "\"\xc3\x28\""), "/sourceId", "invalid_json"},
		"not in NFC":                  {replace(`"s"`, `"e\u0301"`), "/sourceId", "invalid_event"},
		"zero-width space":            {replace(`"s"`, `"a\u200bb"`), "/sourceId", "invalid_event"},
		"right-to-left override":      {replace(`"s"`, `"a\u202eb"`), "/sourceId", "invalid_event"},
		"empty id":                    {replace(`"s"`, `""`), "/sourceId", "invalid_event"},
		"long id":                     {replace(`"s"`, `"`+strings.Repeat("é", 201)+`"`), "/sourceId", "invalid_event"},
		"number for an id":            {replace(`"s"`, `5`), "/sourceId", "invalid_event"},
		"null id":                     {replace(`"s"`, `null`), "/sourceId", "invalid_event"},
		"object for an id":            {replace(`"s"`, `{"a":1}`), "/sourceId", "invalid_event"},
		"null type":                   {replace(`"t"`, `null`), "/eventType", "invalid_event"},
		"missing type":                {replace(`"eventType":"t",`, ``), "/eventType", "invalid_event"},
		"empty tenant":                {with(`"tenantId":""`), "/tenantId", "invalid_event"},
		"tenant with NUL":             {with(`"tenantId":"a\u0000"`), "/tenantId", "invalid_event"},
		"null quantity":               {with(`"quantity":null`), "/quantity", "invalid_event"},
		"NaN":                         {with(`"quantity":NaN`), "", "invalid_json"},
		"NaN as text":                 {with(`"quantity":"NaN"`), "/quantity", "invalid_event"},
		"infinity":                    {with(`"quantity":"Infinity"`), "/quantity", "invalid_event"},
		"plus sign":                   {with(`"quantity":"+1"`), "/quantity", "invalid_event"},
		"leading zero":                {with(`"quantity":01`), "", "invalid_json"},
		"leading zero as text":        {with(`"quantity":"01"`), "/quantity", "invalid_event"},
		"hexadecimal":                 {with(`"quantity":"0x1"`), "/quantity", "invalid_event"},
		"spaces":                      {with(`"quantity":" 1"`), "/quantity", "invalid_event"},
		"empty quantity":              {with(`"quantity":""`), "/quantity", "invalid_event"},
		"Arabic digits":               {with(`"quantity":"١"`), "/quantity", "invalid_event"},
		"exponent bomb":               {with(`"quantity":1e999999999`), "/quantity", "invalid_event"},
		"negative exponent bomb":      {with(`"quantity":"1e-999999999"`), "/quantity", "invalid_event"},
		"zero with an exponent bomb":  {with(`"quantity":0e999999999`), "/quantity", "invalid_event"},
		"long number":                 {with(`"quantity":` + strings.Repeat("9", 100_000)), "/quantity", "invalid_event"},
		"negative":                    {with(`"quantity":-1`), "/quantity", "invalid_event"},
		"zero":                        {with(`"quantity":0`), "/quantity", "invalid_event"},
		"negative zero":               {with(`"quantity":-0.0`), "/quantity", "invalid_event"},
		"19 integer digits":           {with(`"quantity":1234567890123456789`), "/quantity", "invalid_event"},
		"10 fraction digits":          {with(`"quantity":0.1234567891`), "/quantity", "invalid_event"},
		"boolean quantity":            {with(`"quantity":true`), "/quantity", "invalid_event"},
		"missing time":                {replace(`,"occurredAt":"2026-04-05T10:30:00Z"`, ``), "/occurredAt", "invalid_event"},
		"null time":                   {replace(`"2026-04-05T10:30:00Z"`, `null`), "/occurredAt", "invalid_event"},
		"seconds for a time":          {replace(`"2026-04-05T10:30:00Z"`, `1775385000`), "/occurredAt", "invalid_event"},
		"six minutes ahead":           {replace(`10:30:00Z`, `10:37:00Z`), "/occurredAt", "invalid_event"},
		"ahead through the offset":    {replace(`10:30:00Z`, `10:30:00-01:00`), "/occurredAt", "invalid_event"},
		"the year 0":                  {replace(`2026-04-05`, `0000-01-01`), "/occurredAt", "invalid_event"},
		"data is an array":            {with(`"data":[]`), "/data", "invalid_event"},
		"data is text":                {with(`"data":"{}"`), "/data", "invalid_event"},
		"deep data":                   {with(`"data":{"x":` + deep + "}"), "/data/x/a/a/a/a/a/a/a", "invalid_event"},
		"bottomless data":             {with(`"data":` + strings.Repeat("[", 200_000)), "", "invalid_json"},
		"bottomless unknown":          {with(`"x":` + strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000)), "/x", "invalid_event"},
		"large data":                  {with(`"data":{"a":"` + strings.Repeat("x", 64<<10) + `"}`), "/data", "too_large"},
		"NUL in data":                 {with(`"data":{"a":"\u0000"}`), "/data/a", "invalid_event"},
		"lone surrogate in data":      {with(`"data":{"a":"\udfff"}`), "/data/a", "invalid_json"},
		"not UTF-8 in data":           {with("\"data\":{\"a\":\"\xff\"}"), "/data/a", "invalid_json"},
		"case variants in data":       {with(`"data":{"model":1,"Model":2}`), "/data/Model", "invalid_event"},
		"duplicate in data":           {with(`"data":{"a":1,"a":1}`), "/data/a", "invalid_event"},
		"exponent bomb in data":       {with(`"data":{"a":1e999999999}`), "/data/a", "invalid_event"},
		"comment":                     {with(`/* */"quantity":1`), "", "invalid_json"},
		"single quotes":               {with(`'quantity':1`), "", "invalid_json"},
		"trailing comma":              {good + ",}", "", "invalid_json"},
		"byte order mark":             {"\ufeff" + good + "}", "", "invalid_json"},
		"cut short":                   {good, "", "invalid_json"},
		"two events":                  {good + "}" + good + "}", "", "invalid_json"},
		"white space":                 {" \n ", "", "invalid_json"},
		"UTF-16":                      {"\xff\xfe{\x00}\x00", "", "invalid_json"},
	} {
		t.Run(name, func(t *testing.T) {
			var s app.Submission
			err := decodeAndCheck(c.text, &s)
			var bad *invalid.Error
			require.ErrorAs(t, err, &bad)
			if c.pointer != "" {
				assert.Equal(t, c.pointer, bad.Fields[0].Pointer)
			}
			assert.Equal(t, c.code, bad.Fields[0].Code, bad)
			assert.LessOrEqual(t, len(bad.Fields), maxErrors)
			assert.Less(t, len(invalidProblem(bad).appendJSON(nil)), 4096)
		})
	}
}

func TestAcceptedEvents(t *testing.T) {
	for name, text := range map[string]string{
		"the example of the contract": `{"tenantId":"tenant_123","eventType":"ai_interview_completed","quantity":1,"sourceId":"interview_456",
			"occurredAt":"2026-04-05T10:30:00.000Z",
			"data":{"userId":"u1","feature":"interview","provider":"openai","model":"gpt-4.1","promptVersion":"v7","inputTokens":812,"outputTokens":164,
			"cachedInputTokens":0,"latencyMs":930,"cacheHit":false,"safety":"passed","status":"ok","attempt":1,"retryOf":null}}`,
		"nearly five minutes ahead": `{"eventType":"t","sourceId":"s","occurredAt":"2026-04-05T10:35:59Z"}`,
		"long ago":                  `{"eventType":"t","sourceId":"s","occurredAt":"0001-01-02T00:00:00Z"}`,
		"most digits":               `{"eventType":"t","sourceId":"s","occurredAt":"2026-04-05T10:30:00Z","quantity":123456789012345678.123456789}`,
		"text with an exponent":     `{"eventType":"t","sourceId":"s","occurredAt":"2026-04-05T10:30:00Z","quantity":"1.5E3"}`,
		"emoji and paths":           `{"eventType":"t","sourceId":"../\uD83D\uDE00/%2e","occurredAt":"2026-04-05T10:30:00Z","data":null}`,
	} {
		t.Run(name, func(t *testing.T) {
			var s app.Submission
			require.NoError(t, decodeAndCheck(text, &s))
		})
	}
}

func TestParseTime(t *testing.T) {
	for text, want := range map[string]string{
		"2026-04-05T10:30:00Z":                "2026-04-05T10:30:00Z",
		"2026-04-05T10:30:00.123456789Z":      "2026-04-05T10:30:00.123456789Z",
		"2026-04-05T10:30:00.5+05:30":         "2026-04-05T05:00:00.5Z",
		"2026-04-05T10:30:00-00:00":           "2026-04-05T10:30:00Z",
		"2024-02-29T23:59:59-23:59":           "2024-03-01T23:58:59Z",
		"0000-01-01T00:00:00+00:01":           "-0001-12-31T23:59:00Z",
		"2026-04-05t10:30:00Z":                "",
		"2026-04-05T10:30:00z":                "",
		"2026-04-05 10:30:00Z":                "",
		"2026-04-05T10:30:00":                 "",
		"2026-04-05T10:30Z":                   "",
		"2026-04-05T10:30:60Z":                "",
		"2026-04-05T24:00:00Z":                "",
		"2026-04-31T00:00:00Z":                "",
		"2025-02-29T00:00:00Z":                "",
		"2026-13-01T00:00:00Z":                "",
		"2026-00-01T00:00:00Z":                "",
		"2026-01-00T00:00:00Z":                "",
		"2026-04-05T10:30:00,5Z":              "",
		"2026-04-05T10:30:00.Z":               "",
		"2026-04-05T10:30:00.1234567891Z":     "",
		"2026-04-05T10:30:00+24:00":           "",
		"2026-04-05T10:30:00+05:60":           "",
		"2026-04-05T10:30:00+0530":            "",
		"2026-04-05T10:30:00+5:30":            "",
		"2026-04-05T10:30:00ZZ":               "",
		"2026-4-05T10:30:00Z":                 "",
		"+2026-04-05T10:30:00Z":               "",
		"12026-04-05T10:30:00Z":               "",
		"":                                    "",
		"2026-04-05T10:30:00 Z":               "",
		"2026-04-05T10:30:00.000000000000Z":   "",
		"2026-04-05T10:30:00[Europe/Berlin]Z": "",
	} {
		got, ok := parseTime(text)
		assert.Equal(t, want != "", ok, text)
		if ok {
			assert.Equal(t, want, got.UTC().Format(time.RFC3339Nano), text)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		zone := time.FixedZone("", rapid.IntRange(-23*60, 23*60).Draw(t, "minutes")*60)
		want := time.Unix(rapid.Int64Range(-60_000_000_000, 250_000_000_000).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanos")).In(zone)
		got, ok := parseTime(want.Format(time.RFC3339Nano))
		assert.True(t, ok, want)
		assert.True(t, got.Equal(want), "%s is not %s", got, want)
	})
}

func TestHostileCloudEvents(t *testing.T) {
	good := `{"specversion":"1.0","id":"s","source":"/x","type":"t","time":"2026-04-05T10:30:00Z"`
	var manyExtensions strings.Builder
	for i := range 65 {
		fmt.Fprintf(&manyExtensions, `,"x%d":1`, i)
	}
	for name, c := range map[string]struct{ text, pointer string }{
		"no version":                 {`{"id":"s","source":"/x","type":"t","time":"2026-04-05T10:30:00Z"}`, "/specversion"},
		"number for a version":       {strings.Replace(good, `"1.0"`, `1.0`, 1) + "}", "/specversion"},
		"an older version":           {strings.Replace(good, "1.0", "0.3", 1) + "}", "/specversion"},
		"no id":                      {strings.Replace(good, `"id":"s",`, "", 1) + "}", ""},
		"null id":                    {strings.Replace(good, `"s"`, "null", 1) + "}", ""},
		"no source":                  {strings.Replace(good, `"source":"/x",`, "", 1) + "}", "/source"},
		"control in source":          {strings.Replace(good, `/x`, `\u0001`, 1) + "}", "/source"},
		"long source":                {strings.Replace(good, `/x`, strings.Repeat("x", 1001), 1) + "}", "/source"},
		"upper-case attribute":       {good + `,"Subject":"x"}`, "/Subject"},
		"attribute with underscore":  {good + `,"my_ext":"x"}`, "/my_ext"},
		"duplicate attribute":        {good + `,"id":"s"}`, "/id"},
		"duplicate extension":        {good + `,"ext":1,"ext":1}`, "/ext"},
		"lower-case quantity":        {good + `,"data":{"Quantity":5}}`, "/data/Quantity"},
		"two quantities":             {good + `,"data":{"quantity":5,"quantity":6}}`, "/data/quantity"},
		"quantity in two cases":      {good + `,"data":{"quantity":5,"QUANTITY":6}}`, "/data/QUANTITY"},
		"null quantity":              {good + `,"data":{"quantity":null}}`, "/data/quantity"},
		"data is an array":           {good + `,"data":[1]}`, "/data"},
		"data is text":               {good + `,"data":"x"}`, "/data"},
		"XML":                        {good + `,"datacontenttype":"text/xml","data":"<a/>"}`, "/datacontenttype"},
		"XML in base 64":             {good + `,"datacontenttype":"text/xml","data_base64":"PGEvPg=="}`, "/datacontenttype"},
		"broken base 64":             {good + `,"data_base64":"%%%"}`, "/data_base64"},
		"no JSON in base 64":         {good + `,"data_base64":"PGEvPg=="}`, "/data"},
		"both kinds of data":         {good + `,"data":{},"data_base64":"e30="}`, "/data_base64"},
		"a name that is not UTF-8":   {good + ",\"data\":{\"a\xff\":1}}", "/data"},
		"many extensions":            {good + manyExtensions.String() + "}", "/x64"},
		"not an object":              {`[` + good + `}]`, ""},
		"a duplicate deep in data":   {good + `,"data":{"a":{"b":1,"b":2}}}`, "/data/a/b"},
		"time without offset":        {strings.Replace(good, "00Z", "00", 1) + "}", "/time"},
		"a lone surrogate in source": {strings.Replace(good, `/x`, `\ud800`, 1) + "}", "/source"},
	} {
		t.Run(name, func(t *testing.T) {
			var s app.Submission
			err := new(decoder).cloudEvent([]byte(c.text), "", decodeClock, &s)
			if err == nil {
				s.Tenant = "acme"
				err = s.Check(decodeClock)
			}
			var bad *invalid.Error
			require.ErrorAs(t, err, &bad)
			if c.pointer != "" {
				assert.Equal(t, c.pointer, bad.Fields[0].Pointer, bad)
			}
		})
	}
}

func TestHeaderValue(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                 "plain",
		"Euro%20%E2%82%AC":      "Euro €",
		`"quoted \" and \\ it"`: `quoted " and \ it`,
		"100%25":                "100%",
		"a+b":                   "a+b",
		"100%":                  "!",
		"%FF":                   "!",
		"%00":                   "!",
	} {
		got, err := headerValue(in)
		if want == "!" {
			assert.Error(t, err, in)
		} else {
			assert.NoError(t, err, in)
			assert.Equal(t, want, got)
		}
	}
	var s app.Submission
	h := http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"a", "b"}, "Ce-Source": {"/x"}, "Ce-Type": {"t"}, "Ce-Time": {"2026-04-05T10:30:00Z"}, "Ce-My_ext": {"x"}}
	var bad *invalid.Error
	require.ErrorAs(t, new(decoder).binaryEvent(h, nil, decodeClock, &s), &bad)
	pointers := map[string]bool{}
	for _, f := range bad.Fields {
		pointers[f.Pointer] = true
	}
	assert.Equal(t, map[string]bool{"/id": true, "/my_ext": true}, pointers)
}

func TestSplitArray(t *testing.T) {
	for text, want := range map[string][]string{
		`[]`:                        {},
		` [ ] `:                     {},
		`[1]`:                       {`1`},
		`[ {"a":"]\",["} , [1,2] ]`: {`{"a":"]\",["}`, `[1,2]`},
		`["\\"]`:                    {`"\\"`},
		`[NaN,{"x":},1]`:            {`NaN`, `{"x":}`, `1`},
		`[1,]`:                      nil,
		`[,1]`:                      nil,
		`[1`:                        nil,
		`[1]]`:                      nil,
		`[1][2]`:                    nil,
		`["a]`:                      nil,
		`["\"]`:                     nil,
		`[{]`:                       nil,
		`[}]`:                       nil,
		`[`:                         nil,
		`]`:                         nil,
		`1`:                         nil,
		``:                          nil,
	} {
		got, err := splitArray([]byte(text), 10)
		if want == nil {
			assert.Error(t, err, text)
			continue
		}
		if assert.NoError(t, err, text) {
			texts := []string{}
			for _, e := range got {
				texts = append(texts, string(e))
			}
			assert.Equal(t, want, texts, text)
		}
	}
	_, err := splitArray([]byte("[1,2,3]"), 2)
	var p *problem
	require.True(t, errors.As(err, &p))
	assert.Equal(t, codeTooLarge, p.code)
}

func TestFormats(t *testing.T) {
	for text, want := range map[string]format{
		"application/json":                        plainJSON,
		"Application/JSON;charset=UTF-8":          plainJSON,
		`application/json; charset="utf-8"; v=1`:  plainJSON,
		"application/json;":                       plainJSON,
		"application/x-ndjson; header=present":    jsonLines,
		"application/cloudevents+json":            cloudEvent,
		"application/cloudevents-batch+json; a=b": cloudEventBatch,
		"application/json; charset=utf-16":        unsupported,
		"application/jsonp":                       unsupported,
		"text/json":                               unsupported,
		"":                                        unsupported,
		"application/json, text/plain":            unsupported,
	} {
		got, err := formatOf(http.Header{"Content-Type": {text}})
		assert.Equal(t, want, got, text)
		assert.Equal(t, want == unsupported, err != nil, text)
	}
	_, err := formatOf(http.Header{"Content-Type": {"application/json", "application/json"}})
	assert.Error(t, err)
}

func TestTraceParents(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	assert.True(t, isTraceParent(good))
	for _, bad := range []string{"", good + "0", strings.ToUpper(good), "01" + good[2:], strings.ReplaceAll(good, "-", "_"),
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"} {
		assert.False(t, isTraceParent(bad), bad)
	}
}

// eventText writes a submission as an event of our own form.
func eventText(s app.Submission) string {
	b := appendString([]byte(`{"tenantId":`), string(s.Tenant))
	b = appendString(append(b, `,"eventType":`...), string(s.Type))
	b = appendString(append(b, `,"sourceId":`...), string(s.Source))
	b = append(append(b, `,"quantity":`...), s.Quantity.String()...)
	b = append(append(append(b, `,"occurredAt":"`...), s.OccurredAt.Format(time.RFC3339Nano)...), '"')
	b = s.Data.AppendJSON(append(b, `,"data":`...))
	return string(append(b, '}'))
}

// FuzzEvent: nothing makes the decoder fail, and what is accepted is written and read again as the same fact.
func FuzzEvent(f *testing.F) {
	f.Add(`{"eventType":"t","sourceId":"s","occurredAt":"2026-04-05T10:30:00Z"}`)
	f.Add(`{"tenantId":"t","eventType":"t","quantity":"1.50","sourceId":"\ud83d\ude00","occurredAt":"2026-04-05T10:30:00.123456+02:00","data":{"a":[1,{"b":null}],"gen_ai.usage.input_tokens":5}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var first, second app.Submission
		if decodeAndCheck(text, &first) != nil {
			return
		}
		written := eventText(first)
		if err := decodeAndCheck(written, &second); err != nil {
			t.Fatalf("accepted %q, but not %q: %v", text, written, err)
		}
		if first.ID() != second.ID() || first.Identity != second.Identity {
			t.Fatalf("%q became another event: %q", text, written)
		}
	})
}

// FuzzCloudEvent does the same through the CloudEvents form, and cuts whatever comes as an array.
func FuzzCloudEvent(f *testing.F) {
	f.Add(`{"specversion":"1.0","id":"s","source":"/x","type":"t","subject":"t","time":"2026-04-05T10:30:00Z","data":{"quantity":2,"model":"m"}}`)
	f.Add(`[{"specversion":"1.0","id":"s","source":"/x","type":"t","data_base64":"e30="},NaN]`)
	f.Fuzz(func(t *testing.T, text string) {
		elements, _ := splitArray([]byte(text), 100)
		for _, e := range append(elements, []byte(text)) {
			var first, second app.Submission
			if new(decoder).cloudEvent(e, "", decodeClock, &first) != nil {
				continue
			}
			if first.Tenant == "" {
				first.Tenant = "acme"
			}
			if first.Check(decodeClock) != nil {
				continue
			}
			if err := decodeAndCheck(eventText(first), &second); err != nil || first.ID() != second.ID() {
				t.Fatalf("%q became another event: %v", text, err)
			}
		}
	})
}
