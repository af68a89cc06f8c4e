"""The users resource takes any name a person may have, and no input makes it fail."""

from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture
def add(client):
    return lambda name: client.post("/users", json={"name": name})


def test_new_user_can_be_found_where_the_answer_says(client, add):
    response = add("  Zoë 🧑‍🚀 O'Neil <b>\u200b ")
    assert response.status_code == 201
    assert response.json["name"] == "Zoë 🧑‍🚀 O'Neil <b>\u200b"
    assert response.headers["Location"] == f"/users/{response.json['id']}"
    assert client.get(response.headers["Location"]).json == response.json


@pytest.mark.parametrize("name", ["x", "x" * 80, "🧑" * 80, " " * 90 + "x"])
def test_shortest_and_longest_names_are_taken(add, name):
    assert add(name).json["name"] == name.strip()


@pytest.mark.parametrize(
    "name",
    [None, "", "  \n", "x" * 81, 7, True, ["x"], {"x": 1}, "nul\0", "line\nline", "half \ud83d"],
)
def test_bad_name_is_a_400(add, client, is_problem, name):
    assert "name" in is_problem(add(name), 400)["detail"]
    assert client.get("/users").json["total"] == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"name"', b"null", b"{}", b"\xff\xfe\xfa", b"[" * 16000, b"1" * 9000],
)
def test_bad_json_is_a_400(client, is_problem, body):
    is_problem(client.post("/users", data=body, content_type="application/json"), 400)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_other_media_types_are_a_415(client, is_problem, content_type):
    response = client.post("/users", data=b'{"name": "Ada"}', content_type=content_type)
    is_problem(response, 415)


def test_big_body_is_a_413(add, is_problem):
    is_problem(add("x" * 17_000), 413)


def test_other_methods_are_a_405(client, is_problem):
    response = client.delete("/users")
    is_problem(response, 405)
    assert {"GET", "POST"} <= set(response.headers["Allow"].split(", "))


@pytest.mark.parametrize(
    "user_id",
    [
        "0",
        "-1",
        "1.5",
        "x",
        "2147483648",
        f"{2**63 - 1}",
        f"{2**63}",
        "9" * 5000,
        "%00",
        "٣",
        "1_0",
    ],
)
def test_unknown_id_is_a_404(client, is_problem, user_id):
    is_problem(client.get(f"/users/{user_id}"), 404)


def test_pages_hold_every_user_once_in_order_of_id(client, add):
    ids = [add(f"user {number}").json["id"] for number in range(5)]
    pages = [client.get(f"/users?page={page}&per_page=2").json for page in (1, 2, 3, 4)]
    assert [[user["id"] for user in page["items"]] for page in pages] == [
        ids[0:2],
        ids[2:4],
        ids[4:],
        [],
    ]
    assert {name: pages[1][name] for name in ("page", "per_page", "total", "pages")} == {
        "page": 2,
        "per_page": 2,
        "total": 5,
        "pages": 3,
    }


def test_first_page_of_twenty_is_the_default(client, add):
    for number in range(21):
        add(f"user {number}")
    body = client.get("/users").json
    assert (len(body["items"]), body["page"], body["per_page"]) == (20, 1, 20)
    assert (body["total"], body["pages"]) == (21, 2)


@pytest.mark.parametrize("value", ["0", "-1", "x", "", "1.0", "1e3", " 1", "1_0", "٣", "9" * 5000])
@pytest.mark.parametrize("parameter", ["page", "per_page"])
def test_bad_page_is_a_400(client, is_problem, parameter, value):
    response = client.get("/users", query_string={parameter: value})
    assert is_problem(response, 400)["detail"].startswith(f"{parameter} must be")


def test_page_limits(client, is_problem):
    assert client.get("/users?per_page=100&page=1000000000").json["items"] == []
    is_problem(client.get("/users?per_page=101"), 400)
    is_problem(client.get("/users?page=1000000001"), 400)


def test_concurrent_posts_get_different_ids(app):
    def post(number):
        response = app.test_client().post("/users", json={"name": f"user {number}"})
        assert response.status_code == 201, response.text
        return response.json["id"]

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(post, range(40)))) == 40
    assert app.test_client().get("/users").json["total"] == 40
