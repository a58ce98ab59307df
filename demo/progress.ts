import { hostname } from 'node:os'
import { Worker } from 'node:worker_threads'

/** Receives each step before it begins. */
export type Report = (percent: number, step: string) => void

// The embedded database blocks the event loop while it starts, so a thread of its own writes the lines, in the form of
// the logger. Each step is logged, but at most one line a second, and a long step every three seconds.
const THREAD = `
const { writeSync } = require('node:fs')
const { parentPort, workerData } = require('node:worker_threads')
const began = Date.now()
let step
let printedAt = began
let isNew = false
parentPort.on('message', message => {
  if (message === undefined) return process.exit()
  step = message
  isNew = true
})
setInterval(() => {
  const now = Date.now()
  if (step === undefined || now - printedAt < (isNew ? 1000 : 3000)) return
  const msg = 'database: ' + step.percent + ' %, ' + step.step + ' (' + Math.round((now - began) / 1000) + ' s)'
  try {
    writeSync(1, JSON.stringify({ level: 30, time: now, ...workerData, msg }) + '\\n')
  } catch {
    // A pipe that is full: the next line says more.
  }
  printedAt = now
  isNew = false
}, 100)
`

/**
 * Logs how far the database is, on the standard output, while `work` runs. Nothing is logged within the first second.
 */
export async function withProgress<T> (work: (report: Report) => Promise<T>): Promise<T> {
  const thread = new Worker(THREAD, { eval: true, workerData: { pid: process.pid, hostname: hostname() } })
  thread.unref()
  // Without the lines the database starts as well.
  thread.on('error', () => {})
  try {
    return await work((percent, step) => thread.postMessage({ percent, step }))
  } finally {
    thread.postMessage(undefined)
  }
}
