// An nginx that terminates TLS, as one process in its own folder.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, constants } from 'node:fs'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { until } from '../app/until.js'
import type { Certificate } from './certificate.js'
import { freePort } from '../../../tools/servers/free-port.js'
import { isListening } from './inspect.js'
import { register, unregister } from '../../../tools/servers/registry.js'
import { forgetPid, notePid, scratchDir } from '../../../tools/servers/scratch.js'

/** @returns the path of nginx, which is often installed outside the PATH of ordinary users */
export function findNginx (): string | undefined {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter).filter(Boolean), '/usr/sbin', '/usr/local/sbin', '/opt/homebrew/bin']
  return folders.map(folder => join(folder, 'nginx')).find(file => {
    try {
      accessSync(file, constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

/** @param target - the argument of `proxy_pass`, such as `http://127.0.0.1:3000` or `http://unix:/path:` */
export async function startNginx (binary: string, target: string, certificate: Certificate): Promise<{ origin: string }> {
  return await startNginxSite(binary, certificate, (dir, port) => `server {
    listen 127.0.0.1:${port} ssl http2;
    ssl_certificate ${dir}/cert.pem;
    ssl_certificate_key ${dir}/key.pem;
    location / {
      proxy_pass ${target};
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
    }
  }`)
}

/** @param siteOf - returns the content of `http { }`; `cert.pem` and `key.pem` are in the folder `dir` */
export async function startNginxSite (binary: string, { cert, key }: Certificate, siteOf: (dir: string, port: number) => string): Promise<{ origin: string }> {
  const dir = scratchDir()
  const port = await freePort()
  await writeFile(join(dir, 'cert.pem'), cert)
  await writeFile(join(dir, 'key.pem'), key)
  await writeFile(join(dir, 'nginx.conf'), configOf(dir, siteOf(dir, port)))
  const child = spawn(binary, ['-p', dir, '-c', 'nginx.conf', '-e', 'error.log'], { cwd: dir, stdio: 'ignore' })
  await once(child, 'spawn')
  notePid(dir, child.pid ?? 0)
  child.once('exit', () => forgetPid(dir))
  const nginx = {
    async stop () {
      unregister(nginx)
      if (child.exitCode === null && child.signalCode === null) {
        const exited = once(child, 'exit')
        child.kill('SIGKILL')
        await exited
      }
      await rm(dir, { recursive: true, force: true })
    }
  }
  register(nginx)
  await until('nginx listens', async () => {
    if (child.exitCode !== null) throw new Error(await readFile(join(dir, 'error.log'), 'utf8'))
    return await isListening(port)
  })
  return { origin: `https://127.0.0.1:${port}` }
}

/** One process, so that killing it stops everything; all paths are in the folder. */
function configOf (dir: string, site: string): string {
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name => `${name}_temp_path ${dir}/${name};`).join('\n  ')
  return `daemon off;
master_process off;
pid ${dir}/nginx.pid;
error_log ${dir}/error.log;
events {}
http {
  access_log off;
  ${temporary}
  ${site}
}
`
}
