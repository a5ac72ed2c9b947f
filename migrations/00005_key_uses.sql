-- +goose Up

-- When each API key was used last, to the minute or so. It is no fold of the log: a use is not worth an event.
create table key_uses (
    key_id       text collate "C" primary key,
    last_used_at timestamptz not null
) with (fillfactor = 50); -- room to change the time in place

alter table key_uses enable row level security, force row level security;
create policy all_rows on key_uses to tollgate_projector using (true) with check (true);
create policy installation on key_uses for select to tollgate_reader using (current_setting('app.scope', true) = 'installation');
grant select, insert, update on key_uses to tollgate_projector;
grant select on key_uses to tollgate_reader;
