-- Where the events of a tenant are in the log, by when they happened. Insert only: one narrow row per event.
create table timeline (
    occurred_at timestamptz not null,
    position    bigint not null, -- as in log_events
    source_hash bigint not null, -- of tenant and source; 0 for none
    type_hash   integer not null, -- of the usage event type; 0 for none
    kind        smallint not null check (kind > 0),
    tenant_id   text collate "C" not null check (tenant_id <> '')
);

-- indexes

alter table timeline add primary key (tenant_id, occurred_at, position);
create index timeline_by_source on timeline (tenant_id, source_hash);

alter table timeline enable row level security, force row level security;
create policy all_rows on timeline to tollgate_projector using (true) with check (true);
create policy own_rows on timeline for select to tollgate_reader using (tenant_id = current_setting('app.tenant_id', true));
grant select on timeline to tollgate_reader;
