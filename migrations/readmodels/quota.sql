-- What limits have to know about a tenant: the small state that its decisions make, and its holds.
create table quota_accounts (
    revision  bigint not null, -- of the last decision in it
    tenant_id text collate "C" not null check (tenant_id <> ''),
    state     text not null -- JSON: what was admitted and denied, whatever limit counted it
) with (fillfactor = 70); -- room to change the state in place

-- A row for each allowed check whose usage has not arrived and which nobody released, until its end is on the log.
create table quota_holds (
    position   bigint not null, -- of the decision, as in log_events
    keep_until timestamptz not null,
    hold_id    uuid not null, -- of the check's identity
    tenant_id  text collate "C" not null check (tenant_id <> ''),
    event_type text collate "C" not null,
    decision   bytea not null -- as on the log
);

-- indexes

alter table quota_accounts add primary key (tenant_id);
alter table quota_holds add primary key (tenant_id, hold_id);
create index quota_holds_by_end on quota_holds (keep_until);

alter table quota_accounts enable row level security, force row level security;
create policy all_rows on quota_accounts to tollgate_projector using (true) with check (true);
create policy own_rows on quota_accounts for select to tollgate_reader using (tenant_id = current_setting('app.tenant_id', true));
grant select on quota_accounts to tollgate_reader;

alter table quota_holds enable row level security, force row level security;
create policy all_rows on quota_holds to tollgate_projector using (true) with check (true);
create policy own_rows on quota_holds for select to tollgate_reader using (tenant_id = current_setting('app.tenant_id', true));
grant select on quota_holds to tollgate_reader;
