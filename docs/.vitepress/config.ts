// The site of the documentation: `npm run docs` serves it, `npm run docs:build` builds it into docs/.vitepress/dist.
import { defineConfig } from 'vitepress'
import { homepage, linkToRepository, mermaidFences, slugify } from './markdown.js'
import { writeLlmsTexts } from './llms.js'
import { sidebar } from './navigation.js'

export default defineConfig({
  title: 'fastify-redis-suite',
  description: 'Fastify 5 plugins on Redis: cache, sessions, rate limits, events, locks, idempotency, health, metrics',
  lang: 'en',
  cleanUrls: true,
  markdown: {
    anchor: { slugify },
    languageAlias: { conf: 'ini' },
    config: md => md.use(linkToRepository).use(mermaidFences)
  },
  themeConfig: {
    nav: [
      { text: 'Guides', link: '/guides/' },
      { text: 'Plugins', link: '/plugins/redis' },
      { text: 'API', link: '/api/' }
    ],
    sidebar,
    outline: [2, 3],
    search: { provider: 'local' },
    socialLinks: [{ icon: 'github', link: homepage }],
    editLink: { pattern: `${homepage}/edit/main/docs/:path`, text: 'Edit this page' },
    docFooter: { prev: 'Previous', next: 'Next' }
  },
  buildEnd: ({ srcDir, outDir }) => writeLlmsTexts(srcDir, outDir)
})
