-- +goose Up

-- Who may do what. The roles are there already, see roles.go.

-- The log is read and appended to, and nothing else. A tenant's request never reads it by tenant, so the reader has no
-- grant here at all.
grant select, insert on log_settings, log_events, log_streams, log_commits, log_types to tollgate_log;

create policy log_reads on log_events for select to tollgate_log using (true);
create policy log_appends on log_events for insert to tollgate_log with check (true);

-- The projections own their tables (one schema for each generation) and the views of those that serve.
grant select, insert, update, delete on read_models, checkpoints to tollgate_projector;
grant select on read_models, checkpoints to tollgate_reader;

-- +goose StatementBegin
do $$
declare
    of record;
begin
    -- Policies of the parent count for whoever goes through it. Nobody but the owner may go to a leaf.
    for of in select oid::regclass as name from pg_class
        where oid = 'log_events'::regclass or oid in (select inhrelid from pg_inherits where inhparent = 'log_events'::regclass)
    loop
        execute format('alter table %s enable row level security, force row level security', of.name);
    end loop;

    -- What was made before there were roles.
    for of in select distinct view_schema, view_name from information_schema.view_table_usage where table_schema ~ '^rm_[a-z]+_[0-9]+$' loop
        execute format('alter view %I.%I owner to tollgate_projector', of.view_schema, of.view_name);
    end loop;
    for of in select nspname from pg_namespace where nspname ~ '^rm_[a-z]+_[0-9]+$' loop
        execute format('alter schema %I owner to tollgate_projector', of.nspname);
    end loop;
    for of in select schemaname, tablename from pg_tables where schemaname ~ '^rm_[a-z]+_[0-9]+$' loop
        execute format('alter table %I.%I owner to tollgate_projector', of.schemaname, of.tablename);
    end loop;
end $$;
-- +goose StatementEnd
