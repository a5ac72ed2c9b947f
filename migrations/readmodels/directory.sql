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
    applied_by text not null
);

-- indexes

alter table tenants add primary key (tenant_id);
create index tenants_by_slug on tenants (slug) where slug <> '';
create index tenants_by_host on tenants using gin (hosts);
alter table api_keys add primary key (key_id);
create index api_keys_by_hash on api_keys (hash);
alter table catalogs add primary key (only_row);
