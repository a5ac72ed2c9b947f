package catalog

import "strings"

// Currency is a code of ISO 4217.
type Currency string

// active lists the codes in circulation (ISO 4217 table A.1 as of 2026-01-01), without those for precious metals, funds, units of
// account and tests: none of those can be billed.
const active = ` AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF
 CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR
 ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP
 MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG
 SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VED VES VND VUV WST
 XAF XCD XCG XOF XPF YER ZAR ZMW ZWG `

var activeCurrencies = func() map[Currency]bool {
	codes := map[Currency]bool{}
	for code := range strings.FieldsSeq(active) {
		codes[Currency(code)] = true
	}
	return codes
}()

// Active reports whether the currency can be billed.
func (c Currency) Active() bool { return activeCurrencies[c] }

// The currencies of ISO 4217 whose minor unit is not a hundredth.
const (
	noMinorUnit    = ` BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF `
	threeDecimals  = ` BHD IQD JOD KWD LYD OMR TND `
	mostCurrencies = 2
)

// MinorUnits is the number of decimals of amounts in the currency (ISO 4217, table A.1).
func (c Currency) MinorUnits() int {
	switch code := " " + string(c) + " "; {
	case strings.Contains(noMinorUnit, code):
		return 0
	case strings.Contains(threeDecimals, code):
		return 3
	default:
		return mostCurrencies
	}
}
