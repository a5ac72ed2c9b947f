package edge_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/tollgate-io/tollgate/api/edge"
)

// A product's handlers find the tenant in the context of the request.
func ExampleMiddleware_Handler() {
	// In place of Tollgate, for the example.
	tollgate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("host") != "acme.product.com" {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"code":"unknown_tenant"}`)
			return
		}
		_, _ = io.WriteString(w, `{"tenantId":"tenant_123","plan":"pro","status":"active","flagsETag":"\"zV2m\""}`)
	}))
	defer tollgate.Close()

	tenants, err := edge.New(edge.Config{BaseURL: tollgate.URL, ServiceKey: "tg_service_..."})
	if err != nil {
		panic(err)
	}
	product := tenants.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tenant, _ := edge.FromContext(r.Context()) // there always is one behind the middleware
		_, _ = fmt.Fprintf(w, "the reports of %s, plan %s", tenant.ID, tenant.Plan)
	}))

	for _, host := range []string{"acme.product.com", "nobody.product.com"} {
		answer := httptest.NewRecorder()
		product.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "https://"+host+"/reports", nil))
		fmt.Println(answer.Code, answer.Body)
	}
	// Output:
	// 200 the reports of tenant_123, plan pro
	// 404 {"type":"urn:tollgate:problem:unknown_tenant","title":"There is no such workspace","status":404,"detail":"The address leads to no workspace. It may be misspelt, or not be set up yet.","code":"unknown_tenant"}
}
