"""The store on PostgreSQL, which several servers may share; it needs the extra `postgres`."""
