"""Timeline: from a long recording to what is shown when."""
