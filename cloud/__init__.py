"""Cloud: what talks to AWS."""
