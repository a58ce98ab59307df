import { spawn, spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../tools/servers/free-port.js'
import { forgetPid, notePid, scratchDir } from '../tools/servers/scratch.js'

export function hasNginx (): boolean {
  return spawnSync('nginx', ['-v']).error === undefined
}

/**
 * Starts one nginx process with `proxy_cache` in front of a server, in its own folder and with the rights of this
 * process.
 */
export async function startNginx (
  upstream: string
): Promise<{ url: string, cpuMicros: () => number, stop: () => void }> {
  const dir = scratchDir()
  const port = await freePort()
  const temp = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name =>
    `${name}_temp_path ${join(dir, name)};`).join('\n  ')
  writeFileSync(join(dir, 'nginx.conf'), `
daemon off;
master_process off;
pid ${join(dir, 'nginx.pid')};
error_log stderr error;
events { worker_connections 1024; }
http {
  access_log off;
  sendfile on;
  keepalive_requests 1000000000;
  ${temp}
  proxy_cache_path ${join(dir, 'cache')} keys_zone=bench:10m use_temp_path=off;
  server {
    listen 127.0.0.1:${port};
    location / {
      proxy_pass ${upstream};
      proxy_cache bench;
      proxy_cache_valid 200 1h;
      add_header X-Cache $upstream_cache_status;
    }
  }
}
`)
  const child = spawn(
    'nginx', ['-p', dir, '-c', join(dir, 'nginx.conf'), '-e', 'stderr'], { stdio: ['ignore', 'ignore', 'inherit'] }
  )
  notePid(dir, child.pid ?? 0)
  const url = `http://127.0.0.1:${port}`
  for (let tries = 1; ; tries++) {
    try {
      await fetch(url)
      break
    } catch (error) {
      if (tries === 50) throw error
      await sleep(50)
    }
  }
  return {
    url,
    cpuMicros: () => cpuOfProcess(child.pid ?? 0),
    stop () {
      child.kill()
      forgetPid(dir)
    }
  }
}

const MICROS_A_TICK = 10_000

/** Returns the CPU time of another process in microseconds, by the fields utime and stime of Linux; NaN elsewhere. */
function cpuOfProcess (pid: number): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
    return (Number(fields[11]) + Number(fields[12])) * MICROS_A_TICK
  } catch {
    return NaN
  }
}
