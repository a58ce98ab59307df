import { spawnSync } from 'node:child_process'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import type { Browser, Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { buildApp, type ShopOptions } from '../../app.js'
import { OwnRedis } from '../../demo/own-redis.js'
import { shopConfig } from '../helpers/demo/shop.js'
import { launchBrowser, NO_BROWSER } from '../helpers/demo/browser.js'
import { startRedis, until } from '../helpers/index.js'

const root = join(import.meta.dirname, '../..')
const built = spawnSync('npm', ['run', '--silent', 'build:page'], { cwd: root, encoding: 'utf8' })
if (built.status !== 0) throw new Error(built.stderr)
const browser = await launchBrowser()
t.teardown(() => browser?.close())
const server = await startRedis()

async function start (env: NodeJS.ProcessEnv, options: ShopOptions = {}): Promise<{ app: FastifyInstance, url: string }> {
  const app = await buildApp(shopConfig(env), options)
  t.teardown(() => app.close())
  await app.listen({ port: 0, host: '127.0.0.1' })
  return { app, url: `http://127.0.0.1:${(app.server.address() as AddressInfo).port}` }
}

const [inProcess, onRedis, besideIt] = await Promise.all([start({}), start({ REDIS_URL: server.url }), start({ REDIS_URL: server.url })])

/** @returns a page, and the problems that its console reports */
async function open (t: Test, browser: Browser, url: string, viewport = { width: 1280, height: 900 }): Promise<{ page: Page, problems: string[] }> {
  const page = await browser.newPage({ viewport, reducedMotion: 'reduce' })
  t.teardown(() => page.close())
  page.setDefaultTimeout(10_000)
  const problems: string[] = []
  page.on('console', message => {
    // Browsers log each response of 422 and 423, which two buttons provoke.
    if ((message.type() === 'error' || message.type() === 'warning') && !/status of 42[23]/.test(message.text())) problems.push(message.text())
  })
  page.on('pageerror', error => problems.push(error.message))
  await page.goto(url)
  return { page, problems }
}

const shows = async (page: Page, selector: string, text: string | RegExp) =>
  await until(`${selector} shows ${text}`, async () => {
    const found = await page.innerText(selector)
    return typeof text === 'string' ? found.includes(text) : text.test(found)
  })

for (const [name, { url }, label] of [['in-process stores', inProcess, /in this process/], ['a real Redis', onRedis, /(?:Redis|Valkey|Redict) \d+\.\d+\.\d+ at 127\.0\.0\.1:\d+/]] as const) {
  t.test(`on ${name} each panel of the live page works`, { skip: browser === undefined && NO_BROWSER }, async t => {
    if (browser === undefined) return
    const { page, problems } = await open(t, browser, url)
    await shows(page, '#connection', 'live')
    await shows(page, '#store', label)

    t.test('the cache panel shows a miss, a hit, and another miss after an invalidation', async () => {
      await page.click('#read')
      await shows(page, '#trail li:nth-child(1)', 'MISS')
      await page.click('#read')
      await shows(page, '#trail li:nth-child(1)', 'HIT')
      await page.click('#invalidate')
      await shows(page, '#trail li:nth-child(2)', 'invalidated')
      await shows(page, '#trail li:nth-child(1)', 'MISS')
      await shows(page, '#hit-time', /\d/)
      await shows(page, '#miss-time', /\d/)
      await page.click('#steady-reads')
      await shows(page, '#cache-ratio', /\d %/)
      await page.click('#steady-reads')
    })

    t.test('the rate limit panel allows 20 requests of a burst, and shows the time until the next slot', async () => {
      await page.click('#burst')
      await shows(page, '#limit-result', '20 of 120 concurrent requests were allowed, 100 refused')
      await shows(page, '#limit-refused', '100')
      await shows(page, '#limit-free', /\d s/)
    })

    t.test('the locks panel shows a race, a refusal and a stalled worker whose write is refused', async t => {
      await page.click('#lock-race')
      await shows(page, '#lock-holder', /worker [AB]/)
      await shows(page, '#lock-waiting', '1')
      await shows(page, '#lock-result', /^Worker [AB] got the lock first\. Worker [AB] waited 1\.\d s and got the next token, …\u2060\d{6}\.$/)
      await shows(page, '#lock-holder', 'free')
      await page.click('#lock-no-wait')
      await shows(page, '#lock-result', '423 Locked')
      await shows(page, '#lock-refused', '1')
      await page.click('#lock-stall')
      await shows(page, '#lock-result', /was refused, because worker B has written with token …\u2060\d{6}/)
      await page.click('#lock-a')
      await shows(page, '#lock-result', /^Worker A waited 0\.\d s; its write with token …\u2060\d{6} was accepted\.$/)
      t.ok(await page.locator('.bar').count() >= 2)
    })

    t.test('the idempotency panel charges once for a lost response and its retry, and for two requests at once', async t => {
      await page.click('#pay-lose')
      await shows(page, '#pay-result', 'Was the card charged?')
      await page.click('#pay-retry')
      await shows(page, '#pay-result', 'the card was charged once')
      await shows(page, '#pay-trail li:nth-child(1)', 'replayed')
      await page.click('#pay-other')
      await shows(page, '#pay-result', 'Refused with 422')
      await page.click('#pay-twice')
      await shows(page, '#pay-result', 'Two requests at once, one payment')
      await page.click('#pay')
      await shows(page, '#pay-result', 'The card was charged')
      t.same([await page.innerText('#pay-requests'), await page.innerText('#pay-charges'), await page.innerText('#pay-replayed')], ['6', '3', '2'])
    })

    t.test('the streams panel shows parcels that are handled, a dead letter, and its replay', async t => {
      await page.click('#stream-append')
      await shows(page, '#stream-handled', /^6$/)
      await shows(page, '#parcels-ann', 'handled')
      await page.click('#stream-damage')
      await shows(page, '#stream-dead', /^1$/)
      t.equal(await page.locator('[data-step=dead]').count(), 1)
      await page.click('#stream-replay')
      await shows(page, '#stream-result', '1 dead letter is handled again')
      await shows(page, '#stream-handled', /^7$/)
      await shows(page, '#stream-dead', /^0$/)
      t.equal(await page.locator('[data-step=dead]').count(), 0)
    })

    t.test('the write-behind panel shows batches, and views that wait while the database is paused', async t => {
      await page.click('#views-add')
      await shows(page, '#views-result', /^240 views accepted in \d+ ms/)
      await shows(page, '#views-written', /^240$/)
      t.ok(Number(await page.innerText('#views-statements')) <= 8)
      await page.click('#views-pause')
      await shows(page, '#views-result', 'refuses views for 8 s')
      await page.click('#views-add')
      await shows(page, '#views-waiting', /^240$/)
      await shows(page, '#views-trail', 'the database is paused')
      await shows(page, '#views-written', /^480$/)
      await shows(page, '#views-waiting', /^0$/)
    })

    t.test('the sessions panel logs in, adds a device, revokes it and logs out', async t => {
      await page.selectOption('#user', 'user3@example.com')
      await page.click('#login button')
      await shows(page, '#session-user', 'User 3 (id 4), one device')
      await page.click('#add-device')
      await shows(page, '#session-user', '2 devices')
      await page.click('#devices tr:not(.current) button')
      await shows(page, '#session-user', 'one device')
      t.match(await page.innerText('#devices tbody'), /This browser/)
      await page.click('#logout')
      await shows(page, '#session-user', 'not logged in')
    })

    t.test('the Redis and health panels show the known figures', async t => {
      await shows(page, '#health-status', 'healthy')
      await shows(page, '#checks', /database/)
      if (url === onRedis.url) {
        await shows(page, '#circuit', 'closed')
        await shows(page, '#redis-latency', /\d/)
        await shows(page, '#redis-commands', /\d/)
        await shows(page, '#redis-memory', /MiB/)
      } else {
        t.ok(await page.isVisible('#redis-empty'))
        t.notOk(await page.isVisible('#redis-charts'))
      }
    })

    t.test('the rate limit panel shows 20 free slots after the window', async () => {
      await shows(page, '#limit-remaining', /^20$/)
      await shows(page, '#limit-free', 'now')
    })

    t.test('the events panel shows the last 100 events, and none while it is paused', async t => {
      await shows(page, '#log', /invalidate\s+product:1/)
      await shows(page, '#log', /logged out/)
      await page.click('#burst')
      await shows(page, '#log', /refused/)
      await shows(page, '#limit-result', '100 refused')
      t.ok(await page.locator('#log li').count() <= 100)
      await page.click('#pause')
      const paused = await page.innerText('#log')
      const total = async () => Number(await page.innerText('#limit-allowed')) + Number(await page.innerText('#limit-refused'))
      const before = await total()
      await page.click('#one')
      await until('the page has received the decision', async () => await total() > before)
      t.equal(await page.innerText('#log'), paused)
      await page.click('#pause')
      await until('the log goes on', async () => await page.innerText('#log') !== paused)
    })

    t.test('the console shows no error and no warning', async t => t.same(problems, []))
  })
}

t.test('the live page fits into 320 px, and the keyboard reaches all of its controls', { skip: browser === undefined && NO_BROWSER }, async t => {
  if (browser === undefined) return
  const { page } = await open(t, browser, inProcess.url, { width: 320, height: 640 })
  await page.click('#login button')
  await shows(page, '#session-user', 'User 1')
  await page.click('#read')
  await shows(page, '#log', /products/)
  t.equal(await page.evaluate('document.documentElement.scrollWidth'), 320)
  await page.evaluate('document.activeElement.blur(), scrollTo(0, 0)')
  const wanted = await page.evaluate<string[]>('[...document.querySelectorAll("button, select")].filter(e => e.checkVisibility()).map(e => e.id || e.textContent)')
  t.ok(wanted.length > 10)
  const reached = new Set<string>()
  // Once around, with the links, the skip link and the browser's own controls.
  for (let i = 0; i < wanted.length + 40; i++) {
    await page.keyboard.press('Tab')
    const [name, outline] = await page.evaluate<[string, string]>('[document.activeElement.id || document.activeElement.textContent, getComputedStyle(document.activeElement).outlineStyle]')
    if (wanted.includes(name)) {
      reached.add(name)
      t.equal(outline, 'solid', `${name} shows the focus`)
    }
  }
  t.same(wanted.filter(name => !reached.has(name)), [])
  await page.focus('#read')
  await page.keyboard.press('Enter')
  await shows(page, '#trail li:nth-child(2)', /HIT|MISS/)
})

t.test('the live page shows an outage of Redis, its end, and the instance of each response', { skip: browser === undefined && NO_BROWSER }, async t => {
  if (browser === undefined) return
  const { page } = await open(t, browser, onRedis.url)
  await shows(page, '#instances', onRedis.app.live.instance)
  await shows(page, '#instances', besideIt.app.live.instance)
  await fetch(`${besideIt.url}/live/products/3`)
  await shows(page, '#log', new RegExp(`/live/products/3\\s+${besideIt.app.live.instance}`))

  t.teardown(() => server.resume())
  server.pause()
  await shows(page, '#circuit', 'open')
  await shows(page, '#health-status', /warning|failing/)
  await shows(page, '#connection', 'live')
  // The other instance is no longer heard of.
  await shows(page, '#instances-count', 'other instances cannot report')
  await shows(page, '#limit-local', 'The 2 instances together may allow up to 40')
  await page.click('#lock-a')
  await shows(page, '#lock-result', 'Redis is unavailable (503)')
  await page.click('#pay')
  await shows(page, '#pay-result', 'Redis is unavailable (503)')
  await page.click('#stream-append')
  await shows(page, '#stream-result', 'Redis is unavailable (503)')
  server.resume()
  await shows(page, '#circuit', 'closed')
  await shows(page, '#health-status', 'healthy')
  await until('the limiter no longer decides locally', async () => !await page.isVisible('#limit-local'))
})

t.test('the panel that breaks Redis is shown for a Redis of the demo only, and each plugin shows its fallback and its return', { skip: browser === undefined && NO_BROWSER }, async t => {
  if (browser === undefined) return
  const { page: other } = await open(t, browser, onRedis.url)
  await shows(other, '#connection', 'live')
  t.same([await other.isVisible('#break'), await other.isVisible('#break-link')], [false, false])

  const ownRedis = await OwnRedis.start()
  t.teardown(() => ownRedis.stop())
  const { url } = await start({ REDIS_URL: ownRedis.url }, { ownRedis })
  const { page, problems } = await open(t, browser, url)
  await page.click('#break-link')
  await shows(page, '#behaviors', /lock\s+works/)
  await page.click('#fault-hang')
  await shows(page, '#break-circuit', 'open')
  for (const text of [/cache\s+fallback/, /rate-limit\s+fallback/, /lock\s+refuses/, /idempotency\s+refuses/]) await shows(page, '#behaviors', text)
  await shows(page, '#break-changes', /\+\d\.\d s\s+rate-limit: this instance decides/)
  await shows(page, '#limit-local', 'Redis is unavailable')
  t.equal(await page.getAttribute('#fault-hang', 'aria-pressed'), 'true')
  await page.click('#restore')
  await shows(page, '#break-circuit', 'closed')
  await shows(page, '#behaviors', /idempotency\s+works/)
  await shows(page, '#break-state', 'Redis is available')
  t.same(problems, [])
})

/** Evaluated in the page. @returns the texts whose contrast with their background is below 4.5, as WCAG 2.2 §1.4.3 asks for */
const FAINT_TEXTS = `(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true })
  // Layers of colours, the lowest first.
  const blend = layers => {
    canvas.clearRect(0, 0, 1, 1)
    for (const layer of layers) { canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1) }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
  }
  const luminance = rgb => rgb.map(value => value / 255).map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0)
  const layersOf = element => element === null ? [] : [...layersOf(element.parentElement), getComputedStyle(element).backgroundColor]
  return [...document.body.querySelectorAll('*')]
    .filter(element => element.checkVisibility() && [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim() !== ''))
    .flatMap(element => {
      const layers = layersOf(element)
      const [light, dark] = [blend(layers), blend([...layers, getComputedStyle(element).color])].map(luminance).sort((a, b) => b - a)
      const contrast = (light + 0.05) / (dark + 0.05)
      return contrast < 4.5 ? [element.textContent.trim().slice(0, 40) + ': ' + contrast.toFixed(2)] : []
    })
})()`

for (const colorScheme of ['light', 'dark'] as const) {
  t.test(`in the ${colorScheme} scheme all texts have contrast, and all controls have names`, { skip: browser === undefined && NO_BROWSER }, async t => {
    if (browser === undefined) return
    const { page } = await open(t, browser, onRedis.url)
    await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
    await page.click('#login button')
    await page.click('#read')
    await page.click('#stream-append')
    await page.click('#stream-damage')
    await page.click('#pay')
    await page.click('#lock-stall')
    await shows(page, '#lock-result', /was refused/)
    await shows(page, '#stream-dead', /^[1-9]$/)
    for (const url of ['', `${onRedis.url}/products?category=garden`, `${onRedis.url}/products/3`]) {
      if (url !== '') await page.goto(url)
      t.same(await page.evaluate(FAINT_TEXTS), [], url)
      t.same(await page.evaluate(`[...document.querySelectorAll('button, select, input, a')].filter(e => e.checkVisibility() &&
        (e.labels?.length ? [...e.labels].map(label => label.textContent) : [e.getAttribute('aria-label') ?? e.textContent]).join('').trim() === '').map(e => e.outerHTML)`), [], url)
      t.same(await page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id).filter((id, i, ids) => ids.indexOf(id) !== i)"), [], 'each id is used once')
    }
  })
}

t.test('products are a page in a browser, which fits into 320 px and is served from the cache', { skip: browser === undefined && NO_BROWSER }, async t => {
  if (browser === undefined) return
  const { page, problems } = await open(t, browser, `${onRedis.url}/products`, { width: 320, height: 640 })
  await page.click('text=garden')
  await page.click('text=lowest price')
  await page.click('text=Next')
  t.match(page.url(), /\/products\?category=garden&sort=price&offset=20$/)
  await shows(page, '.range', '21 to 40 of 2,040')
  const rendered = await page.innerText('footer time')
  t.equal(await page.evaluate('document.documentElement.scrollWidth'), 320)
  t.equal((await page.reload())?.headers()['x-cache'], 'HIT')
  t.equal(await page.innerText('footer time'), rendered)
  await page.fill('#q', 'teapot')
  await page.keyboard.press('Enter')
  await shows(page, 'h1', 'Search: teapot')
  await page.click('.products a')
  await shows(page, 'h1', 'Teapot')
  // An API client at the same URL.
  t.equal((await fetch(page.url())).headers.get('content-type'), 'application/json; charset=utf-8')
  t.same(problems, [])
})

t.test('the documentation of the routes works in a browser', { skip: browser === undefined && NO_BROWSER }, async t => {
  if (browser === undefined) return
  const { page, problems } = await open(t, browser, `${inProcess.url}/docs`)
  await shows(page, '#swagger-ui', '/products/{id}')
  t.same(problems, [])
})
