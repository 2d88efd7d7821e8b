"""The review page: a person looks, corrects, searches and trains again; and its HTTP API."""
