-- Migrations are told apart by their text: two states of the code may have given one number to different ones.

ALTER TABLE protheon.migration
    ADD COLUMN digest text;                               -- SHA-256 of the statements that ran (ledger.migrate.digest_of)
