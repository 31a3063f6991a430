/** ESLint's recommended rules, for scripts that share one global. Resolved beside the ESLint that reads this. */
const { createRequire } = require("node:module");
const js = createRequire(require.main.filename)("@eslint/js");

const names = (list, access) => Object.fromEntries(list.split(" ").map((name) => [name, access]));
const BROWSER =
    "window document console navigator localStorage HTMLElement HTMLInputElement HTMLTextAreaElement " +
    "Event MutationObserver setTimeout clearTimeout setInterval Blob File URL Image DOMPoint requestAnimationFrame";

module.exports = [
    js.configs.recommended,
    {
        linterOptions: { reportUnusedDisableDirectives: "error" },
        rules: {
            eqeqeq: "error",
            "no-var": "error",
            "prefer-const": "error",
            "object-shorthand": "error",
            "no-implicit-globals": "error",
            "max-len": ["error", { code: 120 }],
        },
    },
    {
        files: ["**/javascript/*.js"],
        languageOptions: { sourceType: "script", globals: names(BROWSER, "readonly") },
    },
    {
        files: ["**/*.test.js"],
        languageOptions: { sourceType: "commonjs" },
    },
];
