-- How much each tenant used, per meter, quarter of an hour and dimensions. A row exists as soon as an event touched it,
-- even when corrections brought it back to zero.
create table usage_rollups (
    bucket          timestamptz not null, -- start of the quarter of an hour in which the facts occurred
    events          bigint not null,
    dimensions_hash bytea not null check (octet_length(dimensions_hash) = 16), -- of dimensions, which may be too long for an index
    tenant_id       text collate "C" not null check (tenant_id <> ''),
    meter           text collate "C" not null,
    quantity        numeric not null check (quantity not in ('NaN', 'Infinity', '-Infinity')),
    dimensions      text collate "C" not null -- a JSON object with text values
) with (fillfactor = 90); -- room to change the two sums in place

-- indexes

alter table usage_rollups add primary key (tenant_id, meter, bucket, dimensions_hash);

alter table usage_rollups enable row level security, force row level security;
create policy all_rows on usage_rollups to tollgate_projector using (true) with check (true);
create policy own_rows on usage_rollups for select to tollgate_reader using (tenant_id = current_setting('app.tenant_id', true));
grant select on usage_rollups to tollgate_reader;
