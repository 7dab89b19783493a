-- The service role may do what the parts do, and no more: nothing empties a table, and only a migration says whose database this is.

revoke truncate on public.ohlcv from barkeep_service;
revoke truncate on all tables in schema barkeep from barkeep_service;
revoke insert, update, delete on barkeep.deployment, barkeep.migration, barkeep.schema_version from barkeep_service;
