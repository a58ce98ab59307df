import { hashPassword } from './password.js'
import type { Report } from './progress.js'
import type { Query } from './query.js'

/**
 * The password of all seeded users: `admin@example.com`, who may change products, and user1@example.com to
 * user1000@example.com.
 */
export const DEMO_PASSWORD = 'demo-password'

const CATEGORIES: Record<string, string[]> = {
  kitchen: ['Teapot', 'Kettle', 'Skillet', 'Bread Knife', 'Cutting Board', 'Mortar', 'Whisk', 'Mixing Bowl'],
  garden: ['Trowel', 'Watering Can', 'Secateurs', 'Rake', 'Plant Pot', 'Hose Reel', 'Bird Feeder', 'Wheelbarrow'],
  office: [
    'Desk Lamp', 'Notebook', 'Fountain Pen', 'Stapler', 'Monitor Stand', 'Letter Tray', 'Office Chair', 'Whiteboard'
  ],
  outdoor: ['Backpack', 'Tent', 'Headlamp', 'Sleeping Bag', 'Camp Stove', 'Water Filter', 'Trekking Pole', 'Dry Bag'],
  music: ['Ukulele', 'Metronome', 'Kalimba', 'Drumsticks', 'Guitar Strap', 'Music Stand', 'Tambourine', 'Harmonica']
}
const MATERIALS = [
  'Oak', 'Copper', 'Steel', 'Ceramic', 'Bamboo', 'Linen', 'Walnut', 'Enamel', 'Leather', 'Glass', 'Cork', 'Brass',
  'Slate', 'Canvas', 'Titanium'
]
const STYLES = [
  'Compact', 'Classic', 'Large', 'Folding', 'Handmade', 'Travel', 'Everyday', 'Professional', 'Nordic', 'Vintage',
  'Lightweight', 'Sturdy', 'Quiet', 'Slim', 'Round', 'Deep', 'Little'
]

/**
 * Fills empty tables with 10,200 products, 1,001 users and 20,000 orders, always the same. The database generates the
 * rows from short lists, which takes a second or two.
 */
export async function seed (query: Query, report: Report): Promise<void> {
  const [present] = await query('SELECT 1 AS one FROM users LIMIT 1')
  if (present !== undefined) return
  // The pseudo-random part of a row is a hash of its number.
  const random = (of: string, salt: number, below: number) => `(abs(hashint4(${of} + ${salt * 7919})) % ${below})`

  report(71, 'adding 10,200 products')
  await query(`
    INSERT INTO products (name, description, category, price_cents, stock)
    SELECT style || ' ' || material || ' ' || noun,
      'A ' || lower(style) || ' ' || lower(noun) || ' made of ' || lower(material) || ', number ' || n || ' of our ' || category || ' range.',
      category, 490 + ${random('n::int', 1, 19_500)}, 5 + ${random('n::int', 2, 200)}
    FROM (
      SELECT row_number() OVER (ORDER BY style, material, noun) AS n, * FROM
        (SELECT key AS category, jsonb_array_elements_text(value) AS noun FROM jsonb_each($1::jsonb)) nouns,
        jsonb_array_elements_text($2::jsonb) AS m (material), jsonb_array_elements_text($3::jsonb) AS s (style)
    ) AS combinations`, [JSON.stringify(CATEGORIES), JSON.stringify(MATERIALS), JSON.stringify(STYLES)])

  report(78, 'adding 1,001 users')
  // One hash for all users: a thousand hashes would take a minute, by design.
  await query(`
    INSERT INTO users (email, name, password_hash, is_admin)
    SELECT CASE n WHEN 0 THEN 'admin@example.com' ELSE 'user' || n || '@example.com' END,
      CASE n WHEN 0 THEN 'Admin' ELSE 'User ' || n END, $1, n = 0
    FROM generate_series(0, 1000) AS n`, [await hashPassword(DEMO_PASSWORD)])

  report(80, 'adding 20,000 orders')
  await query(`
    INSERT INTO orders (user_id, created_at)
    SELECT 1 + ${random('n', 3, 1000)}, now() - ${random('n', 4, 365)} * interval '1 day'
    FROM generate_series(1, 20000) AS n`)
  report(84, 'adding the items of the orders')
  await query(`
    INSERT INTO order_items (order_id, product_id, quantity, price_cents)
    SELECT o.id, p.id, 1 + ${random('o.id', 5, 3)}, p.price_cents
    FROM orders o CROSS JOIN generate_series(1, 2) AS line
    JOIN products p ON p.id = 1 + (power(${random('o.id * 2 + line', 6, 1000)} / 1000.0, 3) * 10000)::int
    ON CONFLICT DO NOTHING`)
  report(95, 'analyzing the tables')
  await query('ANALYZE')
}
