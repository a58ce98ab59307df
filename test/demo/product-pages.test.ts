import t from 'tap'
import { html, prefersHtml } from '../../demo/html.js'
import { DEMO_PASSWORD } from '../../demo/seed.js'
import { client } from '../helpers/app/client.js'
import { sharedDatabase, startShop } from '../helpers/demo/start-shop.js'
import { sharedRedis, until } from '../helpers/index.js'

const CHROME = 'text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8'
const FIREFOX = 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8'
const stores = { memory: {}, Redis: { REDIS_URL: (await sharedRedis()).url } }

t.test('a client gets HTML only if it prefers it to JSON', async t => {
  const accepted = {
    [CHROME]: true,
    [FIREFOX]: true,
    'text/html': true,
    'text/html,*/*': true,
    'TEXT/HTML;Q=0.9': true,
    'application/json;q=0.5, text/html': true,
    'text/*': true,
    '*/*': false,
    'application/json': false,
    'application/json, text/plain, */*': false,
    'text/html;q=0.5, application/json': false,
    'text/html, application/json': false,
    'text/html;q=0': false,
    'image/png': false,
    'text/html;q=x': false,
    '': false
  }
  t.same(Object.fromEntries(Object.keys(accepted).map(accept => [accept, prefersHtml(accept)])), accepted)
  t.equal(prefersHtml(undefined), false)
})

t.test('values in a page are escaped, markup is not', async t => {
  t.equal(html`<p title="${'"&\''}">${'<b>'}${html`<i>${1}</i>`}${[html`<u></u>`, html`<s></s>`]}${undefined}</p>`.text,
    '<p title="&quot;&amp;&#39;">&lt;b&gt;<i>1</i><u></u><s></s></p>')
})

for (const name of ['memory', 'Redis'] as const) {
  t.test(`on ${name}`, async t => {
    const [app, other = app] = await startShop(t, { env: stores[name], instances: name === 'Redis' ? 2 : 1 })
    const open = async (url: string, accept?: string, at = app) => await at.inject({ url, ...accept !== undefined && { headers: { accept } } })

    t.test('one URL is a page for browsers and JSON for API clients, and each copy is cached', async t => {
      for (const url of ['/products?category=garden&limit=3', '/products/search?q=kettle&limit=3', '/products/11']) {
        const page = await open(url, CHROME)
        t.match([page.statusCode, page.headers['content-type'], page.headers['vary'], page.headers['x-cache']], [200, 'text/html; charset=utf-8', /accept/i, 'MISS'], url)
        t.match(page.headers['content-security-policy'], /default-src 'none'/)
        const data = await open(url)
        t.match([data.statusCode, data.headers['content-type'], data.headers['vary'], data.headers['x-cache']], [200, /^application\/json/, /accept/i, 'MISS'], url)
        t.notOk(data.headers['content-security-policy'])
        t.type(data.json(), 'object')
        // Another browser at the other instance gets the same copy.
        await until('the page is stored', async () => (await open(url, FIREFOX, other)).headers['x-cache'] === 'HIT')
        const again = await open(url, FIREFOX, other)
        t.same([again.headers['x-cache'], again.body, again.headers['content-security-policy']], ['HIT', page.body, page.headers['content-security-policy']])
        await until('the JSON is stored', async () => (await open(url, 'application/json', other)).headers['x-cache'] === 'HIT')
        t.same((await open(url, '*/*', other)).json(), data.json())
      }
    })

    t.test('a change of a product invalidates the page and the JSON, and its name is escaped in the page', async t => {
      const admin = client(app, '10.0.0.1')
      await admin.send('POST', '/login', { email: 'admin@example.com', password: DEMO_PASSWORD })
      const named = async (text: string) => t.equal((await admin.send('PUT', '/products/12', { name: text })).statusCode, 200)
      await named('Before')
      for (const accept of [CHROME, '*/*']) await until('it is stored', async () => (await open('/products/12', accept, other)).headers['x-cache'] === 'HIT')
      await named('<script>alert("Tom & Ann")</script>')
      await until('the page is invalidated', async () => !(await open('/products/12', CHROME, other)).body.includes('Before'))
      const page = (await open('/products/12', CHROME, other)).body
      t.match(page, '<h1>&lt;script&gt;alert(&quot;Tom &amp; Ann&quot;)&lt;/script&gt;</h1>')
      t.notMatch(page, '<script')
      t.equal((await open('/products/12', '*/*', other)).json().name, '<script>alert("Tom & Ann")</script>')
      await named('After')
    })

    t.test('the links of a page lead through all products of a category, in the chosen order', async t => {
      const linksOf = (body: string, pattern: RegExp) => [...body.matchAll(pattern)].map(([, href = '']) => href.replaceAll('&amp;', '&'))
      const ids: string[] = []
      let url: string | undefined = '/products?category=music&sort=price&limit=100'
      let pages = 0
      while (url !== undefined && pages < 100) {
        const { statusCode, body } = await open(url, CHROME)
        t.equal(statusCode, 200)
        ids.push(...linksOf(body, /href="\/products\/(\d+)"/g))
        url = linksOf(body, /rel="next" href="([^"]+)"/g)[0]
        pages++
      }
      const rows = await (await sharedDatabase()).query<{ id: number }>("SELECT id FROM products WHERE category = 'music' ORDER BY price_cents, id")
      t.same(ids, rows.map(({ id }) => String(id)))
      const last = await open(`/products?category=music&sort=price&limit=100&offset=${(pages - 1) * 100}`, CHROME)
      t.same(linksOf(last.body, /rel="prev" href="([^"]+)"/g), [`/products?category=music&sort=price&limit=100&offset=${(pages - 2) * 100}`])
      t.match(last.body, 'aria-current="true">lowest price')
      const filtered = '/products?category=music&minPrice=0&maxPrice=10000000&sort=price&limit=2'
      t.same(linksOf((await open(filtered, CHROME)).body, /rel="next" href="([^"]+)"/g), [`${filtered}&offset=2`], 'the prices stay filtered')
    })

    t.test('an unknown product is a 404 in either form, and a search without results is a page', async t => {
      const page = await open('/products/2147483647', CHROME)
      t.match([page.statusCode, page.headers['content-type'], page.body], [404, /html/, '<h1>No such product</h1>'])
      t.match((await open('/products/2147483647')).json(), { statusCode: 404, message: 'no such product' })
      t.match((await open('/products/0', CHROME)).json(), { statusCode: 400 })
      t.match((await open('/products/search?q=qqqq', CHROME)).body, 'No products')
    })
  })
}
