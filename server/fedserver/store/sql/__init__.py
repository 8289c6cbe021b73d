"""The store in SQL that SQLite and PostgreSQL both speak; each fills in a `Driver`, and its own."""
