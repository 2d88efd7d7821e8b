"""Pipeline: the steps from new recordings to a published champion, each to be taken up again."""
