"""The tables."""

from sqlalchemy import BigInteger, Identity, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from .extensions import db

ID_MAX = 2**63 - 1
NAME_MAX_CHARACTERS = 80


class User(db.Model):
    """Somebody with a name; two users may share one."""

    __tablename__ = "users"

    # SQLite numbers rows by itself only if the type of the key is exactly INTEGER.
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True
    )
    name: Mapped[str] = mapped_column(String(NAME_MAX_CHARACTERS))
