import { spawnSync } from 'node:child_process'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import type { Browser, Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { buildApp } from '../../app.js'
import { shopConfig } from '../helpers/demo/shop.js'
import { launchBrowser, NO_BROWSER } from '../helpers/demo/browser.js'
import { startRedis, until } from '../helpers/index.js'

const root = join(import.meta.dirname, '../..')
const built = spawnSync('npm', ['run', '--silent', 'build:page'], { cwd: root, encoding: 'utf8' })
if (built.status !== 0) throw new Error(built.stderr)
const browser = await launchBrowser()
t.teardown(() => browser?.close())
const server = await startRedis()

async function start (env: NodeJS.ProcessEnv): Promise<{ app: FastifyInstance, url: string }> {
  const app = await buildApp(shopConfig(env))
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
  page.on('console', message => { if (message.type() === 'error' || message.type() === 'warning') problems.push(message.text()) })
  page.on('pageerror', error => problems.push(error.message))
  await page.goto(url)
  return { page, problems }
}

const shows = async (page: Page, selector: string, text: string | RegExp) =>
  await until(`${selector} shows ${text}`, async () => {
    const found = await page.innerText(selector)
    return typeof text === 'string' ? found.includes(text) : text.test(found)
  })

for (const [name, { url }, label] of [['in-process stores', inProcess, /in this process/], ['a real Redis', onRedis, /Redis \d+\.\d+\.\d+ at 127\.0\.0\.1:\d+/]] as const) {
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
  for (let i = 0; i < wanted.length + 15; i++) {
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
  server.resume()
  await shows(page, '#circuit', 'closed')
  await shows(page, '#health-status', 'healthy')
})

t.test('the documentation of the routes works in a browser', { skip: browser === undefined && NO_BROWSER }, async t => {
  if (browser === undefined) return
  const { page, problems } = await open(t, browser, `${inProcess.url}/docs`)
  await shows(page, '#swagger-ui', '/products/{id}')
  t.same(problems, [])
})
