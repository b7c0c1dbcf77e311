-- What is wrong is counted at every scrape of metrics, and there is next to nothing of it.
CREATE INDEX chunk_quarantined ON chunk (id) WHERE quarantined <> 0;
