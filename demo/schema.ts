/** The shop's tables, and an index for each way the routes look things up. Each statement can run again. */
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
  // The id of the cart that was ordered: it can be ordered once.
  'ALTER TABLE orders ADD COLUMN IF NOT EXISTS checkout_id uuid',
  'CREATE UNIQUE INDEX IF NOT EXISTS orders_checkout ON orders (checkout_id)',
  `CREATE TABLE IF NOT EXISTS order_items (
    order_id integer NOT NULL REFERENCES orders,
    product_id integer NOT NULL REFERENCES products,
    quantity integer NOT NULL CHECK (quantity > 0),
    price_cents integer NOT NULL,
    PRIMARY KEY (order_id, product_id)
  )`,
  'CREATE INDEX IF NOT EXISTS order_items_product ON order_items (product_id)'
]
