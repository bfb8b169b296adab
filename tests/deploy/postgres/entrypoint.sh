#!/bin/bash
# The first start makes the cluster and the database; every start is the server in the foreground.
set -euo pipefail
as_postgres() { setpriv --reuid=999 --regid=999 --clear-groups "$@"; }

install -d -m 0700 -o postgres -g postgres "$PGDATA"
if [[ ! -s $PGDATA/PG_VERSION ]]; then
    # initdb, which is not root, may not open root's files
    install -m 0600 -o postgres -g postgres "$POSTGRES_PASSWORD_FILE" /tmp/password
    as_postgres initdb -D "$PGDATA" --username="$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 >/dev/null
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    as_postgres postgres --single -E -D "$PGDATA" postgres <<<"CREATE DATABASE \"$POSTGRES_DB\"" >/dev/null
fi
exec setpriv --reuid=999 --regid=999 --clear-groups "$@" -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp
