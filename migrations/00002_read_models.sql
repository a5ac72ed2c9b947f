-- +goose Up

-- The registry of read models. A generation is one complete build of a read model's tables, in the schema
-- rm_<name>_<generation>. Views of the serving generations stand in the default schema under stable names.
create table read_models (
    name       text not null check (name ~ '^[a-z]{1,30}$'), -- it becomes part of a schema's name
    generation integer not null check (generation > 0),
    state      text not null check (state in ('building', 'serving', 'retired')),
    created_at timestamptz not null default clock_timestamp(),
    primary key (name, generation)
);

-- Two serving generations would be two truths.
create unique index read_models_serving on read_models (name) where state = 'serving';

-- How far a generation is: everything up to and including the offset is applied, nothing after it is. The row is updated
-- with every range, so it has room to be updated in place.
create table checkpoints (
    read_model  text not null,
    generation  integer not null,
    partition   smallint not null check (partition >= 0),
    "offset"    bigint not null default 0 check ("offset" >= 0),
    recorded_at timestamptz, -- of the event at the offset
    updated_at  timestamptz not null default clock_timestamp(),
    primary key (read_model, generation, partition),
    foreign key (read_model, generation) references read_models (name, generation) on delete cascade
) with (fillfactor = 50);
