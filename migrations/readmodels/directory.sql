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

-- API keys are read before it is known who asks: the table belongs to the installation, not to a tenant.
create table api_keys (
    key_id     text collate "C" not null,
    kind       text not null,
    tenant_id  text collate "C" not null, -- '' for keys that are not bound to one
    name       text not null,
    hash       bytea not null check (octet_length(hash) = 32),
    created_at timestamptz not null,
    created_by text not null,
    expires_at timestamptz, -- null: never
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

-- A tenant's own maximum of a limit. A removed one stays, so that an older revision that arrives late cannot revive it.
create table limit_overrides (
    tenant_id   text collate "C" not null check (tenant_id <> ''),
    limit_key   text collate "C" not null,
    per         text collate "C" not null, -- a JSON object of the values that it is about; '' is the limit itself
    revision    bigint not null, -- of the subscription stream
    removed     boolean not null,
    max         numeric not null check (max not in ('NaN', 'Infinity', '-Infinity')),
    valid_from  timestamptz, -- null: at once
    valid_until timestamptz, -- exclusive; null: for ever
    reason      text not null,
    changed_at  timestamptz not null,
    changed_by  text not null
);

-- What each tenant may do, where that ever changed.
create table tenant_statuses (
    tenant_id  text collate "C" not null check (tenant_id <> ''),
    revision   bigint not null, -- of the tenant's stream
    status     text not null,
    reason     text not null,
    changed_at timestamptz not null,
    changed_by text not null
);

-- Which claims of a host the host's DNS agreed to.
create table host_proofs (
    tenant_id   text collate "C" not null check (tenant_id <> ''),
    host        text collate "C" not null,
    revision    bigint not null, -- of the tenant's stream
    claim       bigint not null, -- revision of the claim in the name's stream
    verified_at timestamptz not null,
    verified_by text not null
);

-- Who has which name: between tenants, so it belongs to the installation.
create table tenant_names (
    kind       text collate "C" not null,
    name       text collate "C" not null,
    revision   bigint not null, -- of the name's stream
    holder     text collate "C" not null, -- a tenant; '' for a name that was freed
    claim      bigint not null,
    released   boolean not null,
    changed_at timestamptz not null,
    changed_by text not null
);

-- Up to where each partition of the log has changed something: as long as these rows stay, so does everything else here.
create table directory_changes (
    partition smallint not null,
    position  bigint not null -- as in log_events
);

-- indexes

alter table tenants add primary key (tenant_id);
alter table api_keys add primary key (key_id);
alter table catalogs add primary key (only_row);
alter table plan_assignments add primary key (tenant_id, effective_at);
alter table limit_overrides add primary key (tenant_id, limit_key, per);
alter table directory_changes add primary key (partition);
alter table tenant_statuses add primary key (tenant_id);
alter table host_proofs add primary key (tenant_id, host);
alter table tenant_names add primary key (kind, name);

alter table tenants enable row level security, force row level security;
create policy all_rows on tenants to tollgate_projector using (true) with check (true);
create policy own_rows on tenants for select to tollgate_reader using (tenant_id = current_setting('app.tenant_id', true));
grant select on tenants to tollgate_reader;

alter table plan_assignments enable row level security, force row level security;
create policy all_rows on plan_assignments to tollgate_projector using (true) with check (true);
create policy own_rows on plan_assignments for select to tollgate_reader using (tenant_id = current_setting('app.tenant_id', true));
grant select on plan_assignments to tollgate_reader;

alter table limit_overrides enable row level security, force row level security;
create policy all_rows on limit_overrides to tollgate_projector using (true) with check (true);
create policy own_rows on limit_overrides for select to tollgate_reader using (tenant_id = current_setting('app.tenant_id', true));
grant select on limit_overrides to tollgate_reader;

alter table api_keys enable row level security, force row level security;
create policy all_rows on api_keys to tollgate_projector using (true) with check (true);
create policy installation on api_keys for select to tollgate_reader using (current_setting('app.scope', true) = 'installation');
grant select on api_keys to tollgate_reader;

alter table catalogs enable row level security, force row level security;
create policy all_rows on catalogs to tollgate_projector using (true) with check (true);
create policy installation on catalogs for select to tollgate_reader using (current_setting('app.scope', true) = 'installation');
grant select on catalogs to tollgate_reader;

alter table directory_changes enable row level security, force row level security;
create policy all_rows on directory_changes to tollgate_projector using (true) with check (true);
create policy installation on directory_changes for select to tollgate_reader using (current_setting('app.scope', true) = 'installation');
grant select on directory_changes to tollgate_reader;

alter table tenant_statuses enable row level security, force row level security;
create policy all_rows on tenant_statuses to tollgate_projector using (true) with check (true);
create policy own_rows on tenant_statuses for select to tollgate_reader using (tenant_id = current_setting('app.tenant_id', true));
grant select on tenant_statuses to tollgate_reader;

alter table host_proofs enable row level security, force row level security;
create policy all_rows on host_proofs to tollgate_projector using (true) with check (true);
create policy own_rows on host_proofs for select to tollgate_reader using (tenant_id = current_setting('app.tenant_id', true));
grant select on host_proofs to tollgate_reader;

alter table tenant_names enable row level security, force row level security;
create policy all_rows on tenant_names to tollgate_projector using (true) with check (true);
create policy installation on tenant_names for select to tollgate_reader using (current_setting('app.scope', true) = 'installation');
grant select on tenant_names to tollgate_reader;
