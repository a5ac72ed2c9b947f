-- +goose Up

-- What was fixed when the log was created. One row.
create table log_settings (
    only_row   boolean primary key default true check (only_row),
    partitions smallint not null check (partitions between 1 and 1024),
    leaf_size  bigint not null check (leaf_size > 0) -- positions per range partition of log_events
);

-- A position is one number: the log partition in the bits above 48, the offset (1, 2, 3 ... without holes) below.
-- So one primary key orders every partition, and a range partition of the table is a range of offsets of one
-- log partition, which can be archived and detached on its own.
create table log_events (
    position    bigint not null primary key,
    recorded_at timestamptz not null,
    revision    bigint not null,
    type_id     smallint not null,
    stream      bytea not null, -- packed name, see the adapter
    tenant_id   text not null,
    data        bytea not null
) partition by range (position);

-- Identity: which event stands at which revision of which stream. Insert only; the primary key is the last line of
-- defence for both de-duplication and optimistic concurrency. event_id carries the fingerprint of the payload.
create table log_streams (
    stream   bytea not null,
    revision bigint not null,
    position bigint not null,
    event_id uuid not null,
    primary key (stream, revision)
);

-- One row per commit: the head of each partition without a row that is updated, and the log's index by time.
create table log_commits (
    last_position bigint not null primary key,
    recorded_at   timestamptz not null
);

-- The dictionary of event types.
create table log_types (
    type_id smallint generated always as identity primary key,
    name    text not null unique
);

-- +goose StatementBegin
create function log_is_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'the log is append-only' using errcode = 'integrity_constraint_violation';
end $$;
-- +goose StatementEnd

create trigger append_only before update or delete or truncate on log_streams for each statement execute function log_is_append_only();
create trigger append_only before update or delete or truncate on log_commits for each statement execute function log_is_append_only();
create trigger append_only before update or delete on log_events for each statement execute function log_is_append_only();
