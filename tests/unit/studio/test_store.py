"""Chats as trees in one file: branches, restarts, limits, and what one studio must not do to another."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from glassbox.core.errors import UserError
from glassbox.studio.store import Store


def test_a_chat_and_its_branches_are_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    chat = store.add_chat("first", {"columns": []})
    asked = store.add_message(chat["id"], None, "user", "hello")
    one = store.add_message(chat["id"], asked["id"], "assistant", "hi", model="m")
    two = store.add_message(
        chat["id"],
        asked["id"],
        "assistant",
        "ho",
        model="m",
        prompt=[1, 2],
        tokens=[{"i": 3, "t": "ho"}],
    )
    store.close()
    again = Store(tmp_path)
    assert [one["title"] for one in again.chats()] == ["first"]
    assert [m["id"] for m in again.messages(chat["id"])] == [asked["id"], one["id"], two["id"]]
    assert [m["content"] for m in again.branch(two["id"])] == ["hello", "ho"]
    assert again.message(two["id"])["tokens"] == [{"i": 3, "t": "ho"}]
    assert again.message(two["id"])["prompt"] == [1, 2]
    again.delete_chat(chat["id"])
    with pytest.raises(UserError, match="may have been deleted"):
        again.message(one["id"])
    again.close()


def test_an_answer_under_way_when_the_process_ended_is_interrupted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    chat = store.add_chat("", {})
    asked = store.add_message(chat["id"], None, "user", "hello")
    answer = store.add_message(
        chat["id"], asked["id"], "assistant", "", model="m", status="running"
    )
    store.save_answer(
        answer["id"], content="hal", status="running", prompt=[1], tokens=[{"i": 7, "t": "hal"}]
    )
    store.close()
    again = Store(tmp_path)
    found = again.message(answer["id"])
    assert (found["status"], found["content"], len(found["tokens"])) == ("interrupted", "hal", 1)
    again.close()


def test_a_second_studio_on_the_same_chats_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UserError, match="--data FOLDER"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_the_file_grows_no_larger_than_it_may_and_deleting_makes_room(tmp_path: Path) -> None:
    store = Store(tmp_path, max_bytes=1 << 20)
    chat = store.add_chat("", {})

    def fill() -> None:
        for number in range(100):
            store.add_message(chat["id"], None, "user", f"{number}" * 20_000)

    with pytest.raises(UserError, match="delete some"):
        fill()
    assert store.num_bytes <= 1 << 20
    assert store.path.stat().st_size <= 1 << 20
    kept = len(store.messages(chat["id"]))
    assert kept > 5  # what was there before is whole
    store.delete_chat(chat["id"])
    other = store.add_chat("", {})
    store.add_message(other["id"], None, "user", "x" * 300_000)
    store.close()


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "studio.sqlite").write_text(
        "this is no database, and long enough to be looked at" * 9
    )
    with pytest.raises(UserError, match="move it away or give --data"):
        Store(tmp_path)
    (tmp_path / "studio.sqlite").unlink()
    newer = sqlite3.connect(tmp_path / "studio.sqlite")
    newer.execute("PRAGMA user_version = 99")
    newer.commit()
    newer.close()
    with pytest.raises(UserError, match="newer Glassbox"):
        Store(tmp_path)


def test_a_parent_of_another_chat_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, two = store.add_chat("", {}), store.add_chat("", {})
    asked = store.add_message(one["id"], None, "user", "hello")
    with pytest.raises(UserError, match="another chat"):
        store.add_message(two["id"], asked["id"], "assistant", "hi")
    with pytest.raises(UserError, match="no chat"):
        store.add_message("nobody", None, "user", "hello")
    store.close()
