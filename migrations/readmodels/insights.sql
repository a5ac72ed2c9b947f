-- What operators ask over many events: per tenant, day and what calls say of themselves. A row exists as soon as an event touched
-- it, even when corrections brought it back to zero.
create table insight_calls (
    events          bigint not null,
    counted         bigint not null, -- events that say how many tokens were used
    retries         bigint not null,
    failures        bigint not null,
    day             date not null, -- in UTC, in which the facts occurred
    labels_hash     bytea not null check (octet_length(labels_hash) = 16), -- of the four labels, which may be too long for an index
    tenant_id       text collate "C" not null check (tenant_id <> ''),
    event_type      text collate "C" not null,
    provider        text collate "C" not null, -- the four labels; '' for what an event does not say
    model           text collate "C" not null,
    feature         text collate "C" not null,
    prompt_version  text collate "C" not null,
    input_tokens    numeric not null check (input_tokens not in ('NaN', 'Infinity', '-Infinity')),
    cached_tokens   numeric not null check (cached_tokens not in ('NaN', 'Infinity', '-Infinity')), -- of the input
    output_tokens   numeric not null check (output_tokens not in ('NaN', 'Infinity', '-Infinity')),
    latency_buckets smallint[] not null, -- of the log-linear histogram, rising
    latency_counts  bigint[] not null -- how many latencies each has, never 0
) with (fillfactor = 90); -- room to change the sums in place

-- How many checks were decided and denied. Rows without a limit are about whole decisions: what they were denied for, or no
-- reason where they allowed. Rows with a limit are about what it denied; several may deny one check.
create table insight_denials (
    decisions  bigint not null,
    day        date not null, -- in UTC, in which the decisions were made
    tenant_id  text collate "C" not null check (tenant_id <> ''),
    event_type text collate "C" not null,
    limit_key  text collate "C" not null,
    reason     text collate "C" not null
) with (fillfactor = 90);

-- indexes

alter table insight_calls add primary key (tenant_id, day, event_type, labels_hash);
alter table insight_denials add primary key (tenant_id, day, event_type, limit_key, reason);

alter table insight_calls enable row level security, force row level security;
create policy all_rows on insight_calls to tollgate_projector using (true) with check (true);
create policy own_rows on insight_calls for select to tollgate_reader using (tenant_id = current_setting('app.tenant_id', true));
grant select on insight_calls to tollgate_reader;

alter table insight_denials enable row level security, force row level security;
create policy all_rows on insight_denials to tollgate_projector using (true) with check (true);
create policy own_rows on insight_denials for select to tollgate_reader using (tenant_id = current_setting('app.tenant_id', true));
grant select on insight_denials to tollgate_reader;
