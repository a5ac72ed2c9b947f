-- The latest definition of each tenant.
create table tenants (
    tenant_id  text collate "C" not null check (tenant_id <> ''),
    revision   bigint not null,
    name       text not null,
    time_zone  text not null,
    currency   text not null,
    hosts      text[] not null,
    slug       text not null,
    defined_at timestamptz not null,
    defined_by text not null
);

alter table tenants enable row level security;
create policy own_rows on tenants using (tenant_id = current_setting('app.tenant_id', true));

-- API keys are read before it is known who asks: the table belongs to the installation, not to a tenant.
create table api_keys (
    key_id     text collate "C" not null,
    kind       text not null,
    tenant_id  text collate "C" not null, -- '' for keys that are not bound to one
    name       text not null,
    hash       bytea not null check (octet_length(hash) = 32),
    created_at timestamptz not null,
    created_by text not null,
    revoked_at timestamptz,
    revoked_by text
);

-- The catalog in force: one row.
create table catalogs (
    only_row   boolean not null default true check (only_row),
    revision   bigint not null,
    catalog    text not null, -- canonical JSON, as it was applied
    applied_at timestamptz not null,
    applied_by text not null,
    plan_versions text not null -- a JSON object: plan key to version
);

-- Which plan a tenant has from when on: for each instant what was said last about it.
create table plan_assignments (
    tenant_id      text collate "C" not null check (tenant_id <> ''),
    effective_at   timestamptz not null,
    revision       bigint not null, -- of the subscription stream
    plan           text not null,
    billing_anchor timestamptz not null,
    assigned_at    timestamptz not null,
    assigned_by    text not null
);

alter table plan_assignments enable row level security;
create policy own_rows on plan_assignments using (tenant_id = current_setting('app.tenant_id', true));

-- A tenant's own maximum of a limit. A removed one stays, so that an older revision that arrives late cannot revive it.
create table limit_overrides (
    tenant_id   text collate "C" not null check (tenant_id <> ''),
    limit_key   text collate "C" not null,
    revision    bigint not null, -- of the subscription stream
    removed     boolean not null,
    max         numeric not null check (max not in ('NaN', 'Infinity', '-Infinity')),
    valid_from  timestamptz, -- null: at once
    valid_until timestamptz, -- exclusive; null: for ever
    reason      text not null,
    changed_at  timestamptz not null,
    changed_by  text not null
);

alter table limit_overrides enable row level security;
create policy own_rows on limit_overrides using (tenant_id = current_setting('app.tenant_id', true));

-- Up to where each partition of the log has changed something: as long as these rows stay, so does everything else here.
create table directory_changes (
    partition smallint not null,
    position  bigint not null -- as in log_events
);

-- indexes

alter table tenants add primary key (tenant_id);
create index tenants_by_slug on tenants (slug) where slug <> '';
create index tenants_by_host on tenants using gin (hosts);
alter table api_keys add primary key (key_id);
create index api_keys_by_hash on api_keys (hash);
alter table catalogs add primary key (only_row);
alter table plan_assignments add primary key (tenant_id, effective_at);
alter table limit_overrides add primary key (tenant_id, limit_key);
alter table directory_changes add primary key (partition);
