/** The shop's tables, with an index for each lookup of the routes. Each statement can be repeated. */
export const schemaSql: readonly string[] = [
  `CREATE TABLE IF NOT EXISTS products (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    description text NOT NULL,
    category text NOT NULL,
    price_cents integer NOT NULL CHECK (price_cents >= 0),
    stock integer NOT NULL CHECK (stock >= 0),
    updated_at timestamptz NOT NULL DEFAULT now(),
    search tsvector GENERATED ALWAYS AS (to_tsvector('english', name || ' ' || description)) STORED
  )`,
  'CREATE INDEX IF NOT EXISTS products_search ON products USING gin (search)',
  'CREATE INDEX IF NOT EXISTS products_category_price ON products (category, price_cents)',
  'CREATE INDEX IF NOT EXISTS products_price ON products (price_cents)',
  'CREATE INDEX IF NOT EXISTS products_name ON products (name, id)',
  'CREATE INDEX IF NOT EXISTS products_newest ON products (updated_at DESC, id)',
  `CREATE TABLE IF NOT EXISTS users (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text NOT NULL UNIQUE,
    name text NOT NULL,
    password_hash text NOT NULL,
    is_admin boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
  )`,
  `CREATE TABLE IF NOT EXISTS orders (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id integer NOT NULL REFERENCES users,
    created_at timestamptz NOT NULL DEFAULT now()
  )`,
  'CREATE INDEX IF NOT EXISTS orders_user ON orders (user_id)',
  // The id of the cart: it can be ordered once.
  'ALTER TABLE orders ADD COLUMN IF NOT EXISTS checkout_id uuid',
  'CREATE UNIQUE INDEX IF NOT EXISTS orders_checkout ON orders (checkout_id)',
  `CREATE TABLE IF NOT EXISTS order_items (
    order_id integer NOT NULL REFERENCES orders,
    product_id integer NOT NULL REFERENCES products,
    quantity integer NOT NULL CHECK (quantity > 0),
    price_cents integer NOT NULL,
    PRIMARY KEY (order_id, product_id)
  )`,
  'CREATE INDEX IF NOT EXISTS order_items_product ON order_items (product_id)',
  `CREATE TABLE IF NOT EXISTS product_views (
    product_id integer PRIMARY KEY REFERENCES products ON DELETE CASCADE,
    views bigint NOT NULL
  )`,
  'CREATE INDEX IF NOT EXISTS product_views_most ON product_views (views DESC, product_id)',
  // One mail per order.
  `CREATE TABLE IF NOT EXISTS mails (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id integer NOT NULL REFERENCES users,
    order_id integer NOT NULL UNIQUE REFERENCES orders,
    subject text NOT NULL,
    sent_at timestamptz NOT NULL DEFAULT now()
  )`,
  'CREATE INDEX IF NOT EXISTS mails_user ON mails (user_id, id DESC)',
  // The ids of counted views, for a day.
  'CREATE TABLE IF NOT EXISTS counted_views (id uuid PRIMARY KEY, counted_at timestamptz NOT NULL DEFAULT now())',
  'CREATE INDEX IF NOT EXISTS counted_views_age ON counted_views (counted_at)',
  // The document of the live page's workers, with the fencing token of its last write.
  'CREATE TABLE IF NOT EXISTS document (id integer PRIMARY KEY CHECK (id = 1), fence bigint NOT NULL, writer text ' +
  'NOT NULL)',
  "INSERT INTO document VALUES (1, 0, '') ON CONFLICT DO NOTHING"
]

// The number of rows whose tags one payload lists: 100 take 2,300 of the 8,000 bytes that NOTIFY allows.
const MAX_ROWS = 100

/**
 * Triggers that send one NOTIFY per changing statement. The payload has the tag of all lists, the tags of the rows (for
 * many rows, the tag of all rows), and the writer that writes the cache itself. Each statement can be repeated.
 */
export const triggerSql: readonly string[] = [
  // Arguments: the column with the row's id, the tag of the lists, and the prefix of a row's tag if rows are cached one
  // by one.
  `CREATE OR REPLACE FUNCTION tell_changes () RETURNS trigger LANGUAGE plpgsql AS $$
  DECLARE
    id_column text := TG_ARGV[0];
    prefix text := TG_ARGV[2];
    changed text := CASE TG_OP
      WHEN 'INSERT' THEN 'SELECT %1$I FROM new_rows'
      WHEN 'DELETE' THEN 'SELECT %1$I FROM old_rows'
      ELSE 'SELECT %1$I FROM old_rows UNION ALL SELECT %1$I FROM new_rows' END;
    ids text[];
    tags text[] := '{}';
  BEGIN
    IF TG_OP <> 'TRUNCATE' THEN
      EXECUTE format('SELECT array_agg(id) FROM (SELECT DISTINCT %1$I AS id FROM (' || changed || ') AS changed LIMIT ${MAX_ROWS + 1}) AS ids', id_column) INTO ids;
      IF ids IS NULL THEN RETURN NULL; END IF;
    END IF;
    IF prefix IS NOT NULL AND cardinality(ids) <= ${MAX_ROWS} THEN
      tags := ARRAY(SELECT prefix || id FROM unnest(ids) AS id);
    ELSIF prefix IS NOT NULL THEN
      tags := ARRAY[prefix || 'all'];
    END IF;
    PERFORM pg_notify('changes', json_build_object('lists', TG_ARGV[1], 'rows', tags, 'writer', current_setting('demo.writer', true))::text);
    RETURN NULL;
  END $$`,
  ...notifyTriggers('products', "'id', 'products', 'product:'"),
  ...notifyTriggers('users', "'id', 'users', 'user:'"),
  // A profile shows the number of orders.
  ...notifyTriggers('orders', "'user_id', 'orders', 'user:'"),
  ...notifyTriggers('order_items', "'order_id', 'orders'")
]

function notifyTriggers (table: string, args: string): string[] {
  const rows = {
    INSERT: 'REFERENCING NEW TABLE AS new_rows',
    UPDATE: 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows',
    DELETE: 'REFERENCING OLD TABLE AS old_rows',
    TRUNCATE: ''
  }
  return Object.entries(rows).map(([event, referencing]) =>
    `CREATE OR REPLACE TRIGGER tell_${event.toLowerCase()} AFTER ${event} ON ${table} ${referencing} FOR EACH ` +
    `STATEMENT EXECUTE FUNCTION tell_changes(${args})`)
}
