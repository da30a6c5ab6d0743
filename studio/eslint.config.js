import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["node_modules", "dist", "eslint.config.js"] },
  ...tseslint.configs.strict,
  {
    rules: {
      eqeqeq: ["error", "always", { null: "ignore" }],
      "no-restricted-syntax": [
        "error",
        {
          // a model's text must never become markup
          selector: "JSXAttribute[name.name='dangerouslySetInnerHTML']",
          message: "no text is ever inserted as markup",
        },
        {
          selector: "AssignmentExpression[left.property.name=/^(innerHTML|outerHTML)$/]",
          message: "no text is ever inserted as markup",
        },
        {
          selector: "CallExpression[callee.property.name=/^(insertAdjacentHTML|write|writeln)$/]",
          message: "no text is ever inserted as markup",
        },
      ],
    },
  },
);
