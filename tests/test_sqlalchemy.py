"""The dialect of SQLAlchemy: schemas, statements, the ORM, reflection; and pandas with it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy import exc, orm
from sqlalchemy.dialects import registry

from replicator.client import dbapi
from tests.fake_sql_server import CLUSTER, PASSWORD, FakeSqlCluster, Lose
from tests.sql_cluster_fixture import SqlCluster

registry.register("replicator", "replicator.client.sqlalchemy_dialect", "ReplicatorDialect")


@pytest.fixture
def engine(dsn: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(dsn)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


class Base(orm.DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "user"
    __table_args__ = (sa.Index("by_name", "name", "born"), sa.CheckConstraint("visits >= 0", "not_negative"))

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(20), unique=True)
    born: orm.Mapped[date | None]
    visits: orm.Mapped[int] = orm.mapped_column(server_default="0")
    orders: orm.Mapped[list[Order]] = orm.relationship(back_populates="user", cascade="all, delete-orphan")


class Order(Base):
    __tablename__ = "order"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    user_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("user.id", ondelete="CASCADE"))
    price: orm.Mapped[Decimal] = orm.mapped_column(sa.Numeric(10, 2))
    user: orm.Mapped[User] = orm.relationship(back_populates="orders")


class Everything(Base):
    __tablename__ = "everything"

    key: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    moment: orm.Mapped[datetime | None]
    clock: orm.Mapped[time | None]
    ratio: orm.Mapped[float | None]
    flag: orm.Mapped[bool | None]
    data: orm.Mapped[bytes | None]
    document: orm.Mapped[Any | None] = orm.mapped_column(sa.JSON)


class TestOrm:
    def test_insert_update_and_delete(self, engine: sa.Engine) -> None:
        with orm.Session(engine) as session:
            ada = User(name="Ada", born=date(1815, 12, 10), orders=[Order(price=Decimal("9.50"))])
            session.add_all([ada, User(name="Bob")])
            session.commit()
            assert (ada.id, ada.visits, ada.orders[0].user_id) == (1, 0, 1)
            ada.visits += 1
            ada.orders.append(Order(price=Decimal(3)))
            session.commit()
        with orm.Session(engine) as session:
            found = session.scalars(sa.select(User).where(User.name.like("A%"))).one()
            assert (found.visits, found.born) == (1, date(1815, 12, 10))
            assert [it.price for it in found.orders] == [Decimal("9.50"), Decimal("3.00")]
            session.delete(found)
            session.commit()
            assert session.scalars(sa.select(User.name)).all() == ["Bob"]
            assert session.scalar(sa.select(sa.func.count()).select_from(Order)) == 0

    def test_many_rows_get_their_ids(self, engine: sa.Engine) -> None:
        with orm.Session(engine) as session, session.begin():
            users = [User(name=f"user {number}") for number in range(500)]
            session.add_all(users)
            session.flush()
            assert [it.id for it in users] == list(range(1, 501))

    def test_autoincrement_does_not_use_an_id_again(self, engine: sa.Engine) -> None:
        with orm.Session(engine) as session:
            session.add(User(name="Ada", orders=[Order(price=Decimal(1))]))
            session.commit()
            session.execute(sa.delete(Order))
            session.add(Order(user_id=1, price=Decimal(2)))
            session.commit()
            assert session.scalars(sa.select(Order.id)).all() == [2]

    def test_values(self, engine: sa.Engine) -> None:
        row = {
            "key": "é",
            "moment": datetime(2026, 1, 31, 12, 30, 15, 250),
            "clock": time(12, 30),
            "ratio": 0.1,
            "flag": True,
            "data": b"\0\xff",
            "document": {"a": [1, None, "ü"]},
        }
        with orm.Session(engine) as session:
            session.add_all([Everything(**row), Everything(key="empty")])
            session.commit()
        with engine.connect() as connection:
            [full, empty] = connection.execute(sa.select(Everything).order_by(sa.desc(Everything.key))).mappings()
        assert full == row
        assert {**empty, "document": None} == {**dict.fromkeys(row), "key": "empty"}

    def test_a_nested_transaction(self, engine: sa.Engine) -> None:
        with orm.Session(engine) as session:
            with session.begin_nested():
                session.add(User(name="Ada"))
            with pytest.raises(exc.IntegrityError), session.begin_nested():
                session.add(User(name="Ada"))
                session.flush()
            session.add(User(name="Bob"))
            session.commit()
            assert session.scalars(sa.select(User.name).order_by(User.id)).all() == ["Ada", "Bob"]


class TestStatements:
    def test_returning(self, engine: sa.Engine) -> None:
        with engine.begin() as connection:
            inserted = connection.execute(sa.insert(User).returning(User.id), [{"name": "Ada"}, {"name": "Bob"}])
            assert inserted.scalars().all() == [1, 2]
            updated = connection.execute(sa.update(User).values(visits=User.visits + 1).returning(User.visits))
            assert updated.scalars().all() == [1, 1]
            assert connection.execute(sa.delete(User).where(User.id == 1).returning(User.name)).scalar() == "Ada"

    def test_common_table_expressions_and_text(self, engine: sa.Engine) -> None:
        with engine.begin() as connection:
            numbers = sa.select(sa.literal(1).label("n")).cte("numbers", recursive=True)
            numbers = numbers.union_all(sa.select(numbers.c.n + 1).where(numbers.c.n < 3))
            assert connection.scalars(sa.select(numbers.c.n)).all() == [1, 2, 3]
            assert connection.scalar(sa.text("SELECT :a || :b"), {"a": "x", "b": "y"}) == "xy"

    def test_rowcounts(self, engine: sa.Engine) -> None:
        with engine.begin() as connection:
            assert connection.execute(sa.insert(User), [{"name": "Ada"}, {"name": "Bob"}]).rowcount == 2
            assert connection.execute(sa.update(User).values(visits=5)).rowcount == 2

    def test_an_upsert(self, engine: sa.Engine) -> None:
        from sqlalchemy.dialects.sqlite import insert

        statement = insert(User).values(name="Ada")
        statement = statement.on_conflict_do_update(index_elements=["name"], set_={"visits": User.visits + 1})
        with engine.begin() as connection:
            connection.execute(statement)
            connection.execute(statement)
            assert connection.execute(sa.select(User.visits)).scalars().all() == [1]


class TestReflection:
    def test_tables_are_reflected(self, engine: sa.Engine) -> None:
        reflected = sa.MetaData()
        reflected.reflect(engine)
        assert reflected.tables.keys() == {"user", "order", "everything"}
        user = reflected.tables["user"]
        assert [(it.name, str(it.type), it.nullable) for it in user.columns] == [
            ("id", "INTEGER", False),
            ("name", "VARCHAR(20)", False),
            ("born", "DATE", True),
            ("visits", "INTEGER", False),
        ]
        assert [it.name for it in user.primary_key] == ["id"]
        [key] = reflected.tables["order"].foreign_keys
        assert (key.target_fullname, key.ondelete) == ("user.id", "CASCADE")

    def test_indexes_constraints_and_views(self, engine: sa.Engine) -> None:
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE VIEW names AS SELECT name FROM user"))
        found = sa.inspect(engine)
        assert [(it["name"], it["column_names"]) for it in found.get_indexes("user")] == [("by_name", ["name", "born"])]
        assert [it["column_names"] for it in found.get_unique_constraints("user")] == [["name"]]
        assert [it["sqltext"] for it in found.get_check_constraints("user")] == ["visits >= 0"]
        assert found.get_view_names() == ["names"]
        assert found.get_view_definition("names") == "CREATE VIEW names AS SELECT name FROM user"
        assert found.get_schema_names() == ["main"]
        assert found.get_temp_table_names() == found.get_temp_view_names() == []
        assert found.has_table("order") and not found.has_table("orders")
        with pytest.raises(exc.NoSuchTableError):
            sa.Table("orders", sa.MetaData(), autoload_with=engine)

    def test_tables_are_created_and_dropped_once(self, engine: sa.Engine) -> None:
        Base.metadata.create_all(engine)
        Base.metadata.drop_all(engine)
        Base.metadata.drop_all(engine)
        assert sa.inspect(engine).get_table_names() == []


class TestTransactions:
    def test_isolation_levels(self, engine: sa.Engine) -> None:
        with engine.connect() as connection:
            assert connection.get_isolation_level() == connection.default_isolation_level == "READ COMMITTED"
        for level in ("SERIALIZABLE", "AUTOCOMMIT"):
            with engine.connect().execution_options(isolation_level=level) as connection:
                assert connection.get_isolation_level() == level
        with engine.connect() as connection:  # from the pool
            assert connection.get_isolation_level() == "READ COMMITTED"

    def test_autocommit(self, engine: sa.Engine) -> None:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.insert(User).values(name="Ada"))
        with engine.connect() as connection:
            assert connection.scalar(sa.select(User.name)) == "Ada"

    def test_a_rollback(self, engine: sa.Engine) -> None:
        with engine.connect() as connection:
            connection.execute(sa.insert(User).values(name="Ada"))
            connection.rollback()
            assert connection.scalar(sa.select(User.name)) is None

    def test_a_conflict_can_be_retried(self, engine: sa.Engine, fake: FakeSqlCluster) -> None:
        fake.inject("COMMIT", "CONFLICT run it again")

        def add_ada() -> None:
            with orm.Session(engine) as session, session.begin():
                session.add(User(name="Ada"))

        with pytest.raises(exc.OperationalError) as caught:
            add_ada()
        assert isinstance(caught.value.orig, dbapi.ConflictError)
        add_ada()
        with engine.connect() as connection:
            assert connection.scalars(sa.select(User.name)).all() == ["Ada"]

    def test_a_lost_transaction_leaves_a_usable_connection(self, engine: sa.Engine, fake: FakeSqlCluster) -> None:
        fake.inject("UPDATE", Lose.BEFORE)
        with engine.connect() as connection:
            connection.execute(sa.insert(User).values(name="Ada"))
            with pytest.raises(exc.OperationalError):
                connection.execute(sa.update(User).values(visits=1))
            connection.rollback()
            assert connection.scalar(sa.select(User.name)) is None

    def test_a_connection_is_usable_after_a_commit_that_failed(self, engine: sa.Engine, fake: FakeSqlCluster) -> None:
        fake.inject("COMMIT", "CONFLICT run it again")
        with engine.connect() as connection:
            connection.execute(sa.insert(User).values(name="Ada"))
            with pytest.raises(exc.OperationalError):
                connection.commit()
            connection.rollback()
            assert connection.scalar(sa.select(User.name)) is None

    def test_a_ping_begins_no_transaction(self, fake: FakeSqlCluster, dsn: str) -> None:
        engine = sa.create_engine(f"{dsn}&isolation=serializable", pool_pre_ping=True)
        for _ in range(2):
            with engine.connect() as connection:
                raw: Any = connection.connection.dbapi_connection
                assert not raw.in_transaction
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1
        engine.dispose()

    def test_a_connection_that_was_closed_is_replaced(self, engine: sa.Engine) -> None:
        with engine.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
        raw.close()
        with engine.connect() as connection, pytest.raises(exc.InterfaceError):
            connection.execute(sa.text("SELECT 1"))
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1

    def test_reads_go_to_followers_at_the_level_of_the_url(self, fake: FakeSqlCluster, dsn: str) -> None:
        engine = sa.create_engine(f"{dsn}&level=bounded+100")
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
        engine.dispose()
        assert (fake.seen[-1].node, fake.seen[-1].level) == (1, "bounded 100")


class TestUrls:
    def test_nodes(self, sql_cluster: SqlCluster) -> None:
        hosts = "&".join(f"host={node}" for node in sql_cluster.nodes)
        engine = sa.create_engine(f"replicator://:{PASSWORD}@/?cluster={CLUSTER}&{hosts}")
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1
        engine.dispose()

    @pytest.mark.parametrize(
        "url", ["replicator://ada@a:1/", "replicator://a:1/db", "replicator://a", "replicator://a:1/?b=c"]
    )
    def test_an_invalid_url(self, url: str) -> None:
        with pytest.raises(exc.ArgumentError):
            sa.create_engine(url)

    def test_the_password_is_not_shown(self, dsn: str) -> None:
        engine = sa.create_engine(dsn)
        assert PASSWORD not in repr(engine)
        with engine.connect() as connection:
            assert PASSWORD not in repr(connection.connection.dbapi_connection)
        engine.dispose()


class TestPandas:
    def test_a_table_is_written_and_read(self, engine: sa.Engine) -> None:
        moments = pd.date_range("2026-01-31", periods=3, tz=UTC).tz_localize(None)
        frame = pd.DataFrame({"n": [1, 2, 3], "x": [0.5, None, 1.5], "name": ["a", "b", None], "at": moments})
        assert frame.to_sql("frame", engine, index=False) == 3
        read = pd.read_sql("frame", engine)
        pd.testing.assert_frame_equal(read, frame, check_dtype=False)
        assert pd.read_sql(sa.text("SELECT max(n) AS most FROM frame"), engine)["most"].tolist() == [3]

    @pytest.mark.parametrize("method", [None, "multi"])
    def test_many_rows(self, engine: sa.Engine, method: Any) -> None:
        frame = pd.DataFrame({"n": range(500)})
        frame.to_sql("frame", engine, index=False, method=method)
        frame.to_sql("frame", engine, index=False, if_exists="append", method=method)
        assert pd.read_sql("SELECT count(*) AS n FROM frame", engine)["n"].tolist() == [1000]

    def test_a_lost_transaction_is_not_committed(self, engine: sa.Engine, fake: FakeSqlCluster) -> None:
        """pandas calls commit() after an error."""
        fake.inject("INSERT", "CONFLICT run it again")
        with pytest.raises(exc.OperationalError, match="CONFLICT run it again"):
            pd.DataFrame({"n": range(10)}).to_sql("frame", engine)
        assert not sa.inspect(engine).has_table("frame")

    def test_chunks_are_transactions_with_autocommit(self, engine: sa.Engine, fake: FakeSqlCluster) -> None:
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        fake.seen.clear()
        pd.DataFrame({"n": range(1000)}).to_sql("frame", autocommit, index=False, chunksize=300)
        assert fake.statements.count("COMMIT") == 4

    def test_a_table_that_exists(self, engine: sa.Engine) -> None:
        frame = pd.DataFrame({"n": range(10)})
        frame.to_sql("frame", engine, index=False)
        frame.head().to_sql("frame", engine, if_exists="replace")
        assert len(pd.read_sql_table("frame", engine, index_col="index")) == 5
        with pytest.raises(ValueError, match="already exists"):
            frame.to_sql("frame", engine)


def test_a_default_of_the_server_is_the_time(engine: sa.Engine) -> None:
    table = sa.Table(
        "stamped",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("created", sa.DateTime, server_default=sa.func.now()),
    )
    table.create(engine)
    with engine.begin() as connection:
        connection.execute(table.insert())
        created = connection.execute(sa.select(table.c.created)).scalar_one()
    assert abs((datetime.now(UTC).replace(tzinfo=None) - created).total_seconds()) < 600
