"""Backup, restore and drill of one PostgreSQL cluster and the files of its applications."""
