-- The tags that changes invalidate, written in the transaction that makes the change.
CREATE TABLE cache_outbox (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tags text[] NOT NULL
);

-- One row per statement: up to 100 tags of products, or else the tag that all products have.
CREATE FUNCTION invalidate_products () RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO cache_outbox (tags)
    SELECT ARRAY['products'] || CASE WHEN count(*) > 100 THEN ARRAY['product:all'] ELSE array_agg('product:' || id) END
    FROM (SELECT DISTINCT id FROM changed LIMIT 101) AS ids
    HAVING count(*) > 0;
  NOTIFY cache_outbox;
  RETURN NULL;
END $$;

CREATE TRIGGER invalidate_insert AFTER INSERT ON products REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION invalidate_products();
CREATE TRIGGER invalidate_update AFTER UPDATE ON products REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION invalidate_products();
CREATE TRIGGER invalidate_delete AFTER DELETE ON products REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION invalidate_products();
