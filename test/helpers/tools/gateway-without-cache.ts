// The gateway of examples/gateway.ts with no cache in it: what `npm run test:conformance` gives such a one is
// what a cache starts from. Run by `npm run test:conformance -- test/helpers/gateway-without-cache.ts`.
import { createApp, passThrough } from '../../../examples/gateway.js'

const app = createApp()
await passThrough(app, process.env['ORIGIN'] ?? 'http://localhost:8000')
await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
