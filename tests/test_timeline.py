"""A timeline knows its breaks, and what its content is called."""

from tests.timelines import timeline


def test_breaks_are_the_ads():
    made = timeline("games 60", "ads 30", "studio 20", "ads 15")
    assert [(s.start_seconds, s.seconds) for s in made.breaks] == [(60, 30), (110, 15)]


def test_content_is_the_games_or_else_the_first_class_but_the_ads():
    assert timeline("ads 30", "games 60").kept == "games"
    made = timeline("ads 30")
    assert type(made)("x", 1.0, 25.0, ("ads", "film", "news"), ()).kept == "film"
    assert type(made)("x", 1.0, 25.0, ("ads",), ()).kept == "games"
