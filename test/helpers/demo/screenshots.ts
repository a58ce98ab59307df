// Makes the pictures of the live page in docs/public/images, with some load on the demo: `npm run screenshots`.
import { mkdirSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Page } from 'playwright-core'
import { buildApp } from '../../../app.js'
import { shopConfig } from './shop.js'
import { launchBrowser, NO_BROWSER } from './browser.js'
import { stopAll } from '../../../tools/servers/registry.js'
import { startRedis } from '../servers/redis-server.js'

const FOLDER = join(import.meta.dirname, '../../../docs/public/images')
/** Fills the charts. */
const LOAD_MS = Number(process.env['LOAD_MS'] ?? 70_000)

const PICTURES = [
  { name: 'live-light', width: 1360, height: 900, colorScheme: 'light' },
  { name: 'live-dark', width: 1360, height: 900, colorScheme: 'dark' },
  { name: 'live-narrow', width: 360, height: 800, colorScheme: 'light' }
] as const

async function visit (page: Page, url: string, other: string): Promise<void> {
  // After the start, whose latency would be the highest point of the charts.
  await sleep(3000)
  await page.goto(url)
  await page.click('#login button')
  await page.waitForSelector('#add-device')
  await page.click('#add-device')
  await page.click('#steady-reads')
  await page.click('#steady-sends')
  const until = Date.now() + LOAD_MS
  for (let i = 0; Date.now() < until; i++) {
    await sleep(2500)
    await page.click(i % 4 === 2 ? '#invalidate' : '#read')
    if (i % 5 === 1) await page.click('#burst')
    // At the other instance.
    for (let id = 1; id < 4; id++) await fetch(`${other}products/${id + i}`)
  }
}

async function takeAll (page: Page): Promise<void> {
  for (const { name, width, height, colorScheme } of PICTURES) {
    await page.setViewportSize({ width, height })
    await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
    // Waits for the next second's figures.
    await sleep(1500)
    await page.screenshot({ path: join(FOLDER, `${name}.png`), fullPage: true })
  }
}

const browser = await launchBrowser()
if (browser === undefined) throw new Error(NO_BROWSER)
mkdirSync(FOLDER, { recursive: true })
const redis = await startRedis()
const config = shopConfig({ REDIS_URL: redis.url })
const apps = [await buildApp(config), await buildApp(config)] as const
for (const app of apps) await app.listen({ port: 0, host: '127.0.0.1' })
const [url = '', other = ''] = apps.map(app => `http://127.0.0.1:${(app.server.address() as AddressInfo).port}/`)
const page = await browser.newPage({ viewport: { width: 1360, height: 900 }, reducedMotion: 'reduce' })
await visit(page, url, other)
await takeAll(page)
await browser.close()
for (const app of apps) await app.close()
await stopAll()
