package catalog

// Parse reads a catalog from YAML or JSON and refuses everything that could be a mistake: unknown and duplicate keys, keys in
// another case, wrong types, broken references, numbers out of range. The error is an *invalid.Error with every problem
// and its JSON pointer. Numbers keep every digit; no binary floating point is involved.
//
// The log keeps canonical catalogs forever, so rules here may become looser, but never stricter for what was accepted.
func Parse(text []byte) (Catalog, error) {
	d := newDecoder()
	root := d.read(text)
	if root == nil {
		return Catalog{}, d.err()
	}
	o := d.object(root, "")
	o.only("the catalog", shape{optional: []string{"meters", "plans", "flags", "costs"}})

	var c Catalog
	seen := unique{}
	o.each("meters", func(n node, at string) { c.Meters = append(c.Meters, d.meter(n, at, seen)) })
	seen = unique{}
	o.each("plans", func(n node, at string) { c.Plans = append(c.Plans, d.plan(n, at, seen)) })
	seen = unique{}
	o.each("flags", func(n node, at string) { c.Flags = append(c.Flags, d.flag(n, at, seen)) })
	c.Costs = d.costs(o)

	if err := d.err(); err != nil {
		return Catalog{}, err
	}
	c = c.ordered()
	c.addDimensions()
	for i := range c.Meters {
		if len(c.Meters[i].Dimensions) > maxDimensions {
			d.refuse("", "out_of_range", "a meter has at most %d dimensions; %s has more with the fields that limits count it by", maxDimensions, c.Meters[i].Key)
			return Catalog{}, d.err()
		}
	}
	// Quotes and escapes can make the canonical form longer than the text, and Parse must accept it again.
	if n := len(c.Canonical()); n > MaxText {
		d.refuse("", "too_large", "a catalog has at most %d bytes, also as JSON, which is %d", MaxText, n)
		return Catalog{}, d.err()
	}
	return c, nil
}
