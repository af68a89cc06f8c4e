"""The page shows the users and who answered, and repeats no name as HTML."""

import os


def test_page_shows_users_newest_first_and_who_answered(client):
    for name in ("Ada", "Grace"):
        client.post("/users", json={"name": name})
    page = client.get("/").text
    assert 0 < page.index("Grace") < page.index(">Ada<")
    assert "<dd>r7</dd>" in page and "<dd>abc123</dd>" in page
    assert f"<dd>{os.getpid()}</dd>" in page


def test_form_adds_a_user_and_goes_back(client):
    response = client.post("/", data={"name": " Ada "})
    assert (response.status_code, response.headers["Location"]) == (303, "/")
    assert client.get("/users").json["items"][0]["name"] == "Ada"


def test_names_are_escaped(client):
    client.post("/", data={"name": "<script>alert(1)</script>"})
    page = client.get("/").text
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_refused_name_is_explained_and_kept_in_the_form(client):
    response = client.post("/", data={"name": '"' + "x" * 80})
    assert response.status_code == 400
    assert 'role="alert">The name must have 1 to 80 characters.' in response.text
    assert 'value="&#34;xxx' in response.text
    assert client.post("/", data={}).status_code == 400
    assert client.get("/users").json["total"] == 0


def test_pages_link_to_each_other(client):
    for number in range(3):
        client.post("/", data={"name": f"user {number}"})
    middle = client.get("/?per_page=1&page=2").text
    assert 'rel="prev" href="/?page=1&amp;per_page=1"' in middle
    assert 'rel="next" href="/?page=3&amp;per_page=1"' in middle
    assert "Page 2 of 3" in middle


def test_bad_page_number_is_a_400(client, is_problem):
    is_problem(client.get("/?page=0"), 400)


def test_everything_the_page_loads_is_ours(client):
    page = client.get("/").text
    assert "http" not in page and "style=" not in page
    for path in ("/static/style.css?v=r7", "/static/icon.svg?v=r7"):
        assert path in page
        with client.get(path) as response:
            assert response.status_code == 200
