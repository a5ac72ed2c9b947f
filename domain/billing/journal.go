package billing

import (
	"fmt"
	"slices"
	"time"

	"github.com/tollgate-io/tollgate/domain/event"
	"github.com/tollgate-io/tollgate/domain/eventstore"
	"github.com/tollgate-io/tollgate/domain/money"
)

// JournalAccount is an account of the double-entry journal.
type JournalAccount string

// The accounts. Each grant has its own, see GrantAccount; its balance is what the tenant can still draw on.
const (
	Cash       JournalAccount = "cash"       // paid to us
	Receivable JournalAccount = "receivable" // invoiced and not paid
	Revenue    JournalAccount = "revenue"    // earned
	Promotions JournalAccount = "promotions" // given away
	Breakage   JournalAccount = "breakage"   // paid for, and never used
	BadDebt    JournalAccount = "bad_debt"   // invoiced, payment no longer expected
)

// GrantAccount is the account of a grant, a liability.
func GrantAccount(g event.GrantID) JournalAccount { return "credit:" + JournalAccount(g) }

// Transfer moves an amount from one account to another. It holds both the debit and the credit of a double entry, so the sum over
// all accounts is always zero.
type Transfer struct {
	ID       string // from the position and the number within its event; stable
	Tenant   event.TenantID
	Position eventstore.Position // of the event that caused it
	PostedAt time.Time           // when that event was recorded
	Kind     TransferKind
	Debit    JournalAccount
	Credit   JournalAccount
	Amount   money.Decimal // > 0
	Currency string
	Invoice  event.InvoiceID // "" if there is none
	Grant    event.GrantID   // likewise
	Price    string          // of a charge
}

// TransferKind is the reason for a transfer.
type TransferKind string

// The kinds of transfers.
const (
	Granted    TransferKind = "grant"
	Refunded   TransferKind = "refund"
	Charged    TransferKind = "charge"
	DrawnOn    TransferKind = "credit_drawn"
	GivenBack  TransferKind = "credit_returned"
	RunOut     TransferKind = "credit_expired"
	TakenBack  TransferKind = "void" // mirrors what the invoice had posted
	PaidIn     TransferKind = "payment"
	WrittenOff TransferKind = "write_off"
)

// Entry is an event of a tenant's billing stream.
type Entry struct {
	Position   eventstore.Position
	RecordedAt time.Time
	Payload    any
}

// Journal is the double-entry journal of a tenant's billing stream, in the stream's order. The same entries always give the same
// transfers.
func Journal(t event.TenantID, entries []Entry) []Transfer {
	j := journal{tenant: t, grants: map[event.GrantID]event.CreditGranted{}}
	for _, e := range entries {
		j.entry, j.ordinal = e, 0
		switch p := e.Payload.(type) {
		case event.CreditGranted:
			j.grants[p.ID] = p
			j.post(Granted, j.source(p.ID), GrantAccount(p.ID), p.Amount, Transfer{Grant: p.ID})
		case event.CreditRefunded:
			j.post(Refunded, GrantAccount(p.ID), j.source(p.ID), p.Amount, Transfer{Grant: p.ID})
		case event.InvoiceFinalised:
			j.invoice(&p.Invoice)
		case event.InvoiceVoided:
			j.void(p.ID)
		case event.InvoiceSettled:
			j.settle(p)
		}
	}
	return j.transfers
}

type journal struct {
	tenant    event.TenantID
	grants    map[event.GrantID]event.CreditGranted
	transfers []Transfer
	entry     Entry
	ordinal   int
	currency  string // of the invoice at hand
}

// source is where the value of a grant comes from.
func (j *journal) source(g event.GrantID) JournalAccount {
	if j.grants[g].Kind == event.Promotional {
		return Promotions
	}
	return Cash
}

// post adds a transfer. A negative amount goes the other way; zero is not posted.
func (j *journal) post(kind TransferKind, debit, credit JournalAccount, amount money.Decimal, about Transfer) {
	switch amount.Sign() {
	case 0:
		return
	case -1:
		debit, credit, amount = credit, debit, amount.Neg()
	}
	about.ID = fmt.Sprintf("%s.%d", j.entry.Position, j.ordinal)
	about.Tenant, about.Position, about.PostedAt = j.tenant, j.entry.Position, j.entry.RecordedAt
	about.Kind, about.Debit, about.Credit, about.Amount = kind, debit, credit, amount
	if about.Currency == "" {
		about.Currency = j.currency
	}
	if about.Grant != "" {
		about.Currency = j.grants[about.Grant].Currency
	}
	j.transfers = append(j.transfers, about)
	j.ordinal++
}

func (j *journal) invoice(inv *event.Invoice) {
	j.currency = inv.Currency
	for i := range inv.Lines {
		j.post(Charged, Receivable, Revenue, inv.Lines[i].Amount, Transfer{Invoice: inv.ID, Price: inv.Lines[i].Price})
	}
	for _, u := range inv.Returned {
		j.post(GivenBack, Receivable, GrantAccount(u.Grant), u.Amount, Transfer{Invoice: inv.ID, Grant: u.Grant})
	}
	for _, u := range inv.Drawn {
		j.post(DrawnOn, GrantAccount(u.Grant), Receivable, u.Amount, Transfer{Invoice: inv.ID, Grant: u.Grant})
	}
	for _, u := range inv.Expired {
		to := Breakage
		if j.grants[u.Grant].Kind == event.Promotional {
			to = Promotions
		}
		j.post(RunOut, GrantAccount(u.Grant), to, u.Amount, Transfer{Invoice: inv.ID, Grant: u.Grant})
	}
}

// void mirrors everything that was posted for an invoice except payments: those are now owed to the tenant.
func (j *journal) void(id event.InvoiceID) {
	for _, t := range slices.Clone(j.transfers) {
		if t.Invoice == id && t.Kind != PaidIn {
			j.post(TakenBack, t.Credit, t.Debit, t.Amount, Transfer{Invoice: id, Grant: t.Grant, Price: t.Price, Currency: t.Currency})
		}
	}
}

// settle clears what is owed. A payment of an invoice that was written off reverses the write-off first.
func (j *journal) settle(e event.InvoiceSettled) {
	owed := map[JournalAccount]money.Decimal{}
	currency := ""
	for _, t := range j.transfers {
		if t.Invoice == e.ID && t.Kind != RunOut {
			owed[t.Debit], owed[t.Credit] = owed[t.Debit].Add(t.Amount), owed[t.Credit].Sub(t.Amount)
			currency = t.Currency
		}
	}
	about := Transfer{Invoice: e.ID, Currency: currency}
	if e.As == event.Uncollectible {
		j.post(WrittenOff, BadDebt, Receivable, owed[Receivable], about)
		return
	}
	j.post(WrittenOff, Receivable, BadDebt, owed[BadDebt], about)
	j.post(PaidIn, Cash, Receivable, owed[Receivable].Add(owed[BadDebt]), about)
}
