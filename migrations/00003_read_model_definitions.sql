-- +goose Up

-- What a generation's tables were made from: the SHA-256 of the read model's definition, in hexadecimal. A generation with
-- another one than the program's, or none because it is older than this column, has to be built again.
alter table read_models add column definition text;
