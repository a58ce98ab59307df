// Makes the pictures of the live page in docs/public/images, with some load on the demo: `npm run screenshots`.
import { mkdirSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Page } from 'playwright-core'
import { buildApp } from '../../../app.js'
import { shopConfig } from './shop.js'
import { OwnRedis } from '../../../demo/own-redis.js'
import { launchBrowser, NO_BROWSER } from './browser.js'

const FOLDER = join(import.meta.dirname, '../../../docs/public/images')
/** Fills the charts. */
const LOAD_MS = Number(process.env['LOAD_MS'] ?? 70_000)

interface Picture {
  name: string
  width: number
  colorScheme: 'light' | 'dark'
  /** The picture is of the page from the first to the last of these elements. */
  from: string
  to: string
}

const PICTURES: readonly Picture[] = [
  { name: 'live-light', width: 1280, colorScheme: 'light', from: 'body', to: '#idempotency' },
  { name: 'live-dark', width: 1280, colorScheme: 'dark', from: 'body', to: '#idempotency' },
  { name: 'live-narrow', width: 400, colorScheme: 'light', from: 'body', to: '#cache' },
  { name: 'streams', width: 1280, colorScheme: 'light', from: '#streams', to: '#write-behind' }
]
const MARGIN = 14

/** Uses all panels, and the other instance as well. */
async function visit (page: Page, url: string, other: string): Promise<void> {
  // After the start, whose latency would be the highest point of the charts.
  await sleep(3000)
  await page.goto(url)
  await page.click('#login button')
  await page.waitForSelector('#add-device')
  await page.click('#add-device')
  for (const id of ['steady-reads', 'steady-sends', 'views-steady']) await page.click(`#${id}`)
  const until = Date.now() + LOAD_MS
  for (let i = 0; Date.now() < until; i++) {
    await sleep(2500)
    await page.click(i % 4 === 2 ? '#invalidate' : '#read')
    if (i % 5 === 1) await page.click('#burst')
    if (i % 3 === 0) await page.click(i % 2 === 0 ? '#pay-lose' : '#pay-retry')
    if (i % 4 === 1) await page.click('#views-add')
    if (i % 6 === 2) await page.click('#stream-append')
    // At the other instance.
    for (let id = 1; id < 4; id++) await fetch(`${other}products/${id + i}`)
  }
}

/** Leaves each panel in a state that shows what it is for. */
async function prepare (page: Page): Promise<void> {
  for (const id of ['views-pause', 'pay-lose']) await page.click(`#${id}`)
  await sleep(1500)
  for (const id of ['views-add', 'pay-retry', 'stream-append', 'stream-damage', 'burst']) await page.click(`#${id}`)
  await sleep(2500)
  await page.click('#lock-race')
  await page.click('#read')
  await page.locator('#lock-result', { hasText: 'got the lock first' }).waitFor()
  await page.click('#lock-stall')
  await page.locator('#lock-result', { hasText: 'was refused' }).waitFor()
  await page.click('#stream-append')
  await sleep(600)
}

async function take (page: Page, { name, width, colorScheme, from, to }: Picture): Promise<void> {
  await page.setViewportSize({ width, height: 900 })
  await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
  // Waits for the next second's figures.
  await sleep(1200)
  // Boxes are relative to the visible part of the page, and the picture's clip is not.
  await page.evaluate('scrollTo(0, 0)')
  const [first, last] = [await page.locator(from).boundingBox(), await page.locator(to).boundingBox()]
  if (first === null || last === null) throw new Error(`${from} or ${to} is not shown`)
  const top = Math.max(0, first.y - MARGIN)
  await page.screenshot({ path: join(FOLDER, `${name}.png`), fullPage: true, clip: { x: 0, y: top, width, height: last.y + last.height + MARGIN - top } })
}

async function takeBroken (page: Page): Promise<void> {
  await page.click('#fault-hang')
  await page.locator('#break-circuit', { hasText: 'open' }).waitFor()
  await page.click('#burst')
  await sleep(2000)
  await take(page, { name: 'break-redis', width: 1280, colorScheme: 'light', from: '#break', to: '#limit' })
  await page.click('#restore')
  await page.locator('#break-circuit', { hasText: 'closed' }).waitFor()
}

const browser = await launchBrowser()
if (browser === undefined) throw new Error(NO_BROWSER)
mkdirSync(FOLDER, { recursive: true })
const ownRedis = await OwnRedis.start()
const config = shopConfig({ REDIS_URL: ownRedis.url })
const apps = [await buildApp(config, { ownRedis }), await buildApp(config)] as const
for (const app of apps) await app.listen({ port: 0, host: '127.0.0.1' })
const [url = '', other = ''] = apps.map(app => `http://127.0.0.1:${(app.server.address() as AddressInfo).port}/`)
const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, reducedMotion: 'reduce' })
await visit(page, url, other)
await prepare(page)
for (const picture of PICTURES) await take(page, picture)
await takeBroken(page)
await page.goto(`${url}products?category=kitchen&limit=8`)
await take(page, { name: 'products', width: 1280, colorScheme: 'light', from: 'body', to: 'footer' })
await browser.close()
for (const app of apps) await app.close()
await ownRedis.stop()
