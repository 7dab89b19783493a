-- What a role proves itself against, for the barkeep that ends an exchange of SCRAM itself (docs/operations.md, Authentication).

-- verifier returns the secret of a role as it is stored, and whether it counts: one that is past valid_until is refused, and a
-- role that may not log in is too. Nothing is returned for a role that is not there. Only a superuser may read pg_authid, so
-- only a function that belongs to one answers.
create function barkeep.verifier(role text) returns table (secret text, valid_until timestamptz, may_login boolean)
    language sql stable strict rows 1 security definer set search_path = pg_catalog, pg_temp as $$
    select a.rolpassword, a.rolvaliduntil, a.rolcanlogin
      from pg_catalog.pg_authid a
     where a.rolname operator(pg_catalog.=) verifier.role::pg_catalog.name
$$;
revoke all on function barkeep.verifier(text) from public;
grant execute on function barkeep.verifier(text) to barkeep_service;
comment on function barkeep.verifier(text) is 'barkeep: the SCRAM verifier of a role; it is as secret as pg_authid';
