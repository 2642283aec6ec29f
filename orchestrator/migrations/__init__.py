"""The schema's history. A revision that was released is never edited: `hashes.txt` and a test hold them."""
