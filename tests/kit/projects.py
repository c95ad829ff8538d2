"""Small real projects in the languages whose tools the gates run, sound in every gate, by path."""

from __future__ import annotations

from collections.abc import Mapping

Project = Mapping[str, str]

TYPESCRIPT: Project = {
    "package.json": (
        '{"name": "shop", "type": "module", "private": true,\n'
        ' "scripts": {"typecheck": "tsc --noEmit", "lint": "eslint src", "test": "vitest run",'
        ' "coverage": "npm test -- --coverage", "build": "tsc --outDir dist"},\n'
        ' "devDependencies": {"typescript": "*", "eslint": "*", "typescript-eslint": "*", "vitest": "*",'
        ' "@vitest/coverage-v8": "*"}}\n'
    ),
    "tsconfig.json": (
        '{"compilerOptions": {"strict": true, "target": "ES2022", "lib": ["ES2022"], "module": "ES2022",'
        ' "moduleResolution": "bundler", "types": [], "skipLibCheck": true}, "include": ["src"]}\n'
    ),
    "eslint.config.js": (
        'import tseslint from "typescript-eslint";\n'
        'export default [{ files: ["src/**/*.ts"], languageOptions: { parser: tseslint.parser },'
        ' rules: { "no-unused-vars": "error", "no-debugger": "error" } }];\n'
    ),
    "vitest.config.ts": 'export default { test: { coverage: { include: ["src/**"] } } };\n',
    "src/price.ts": (
        "export function gross(net: number, rate = 0.2): number {\n"
        '  if (net < 0) throw new Error("a price is not negative");\n'
        "  return Math.round(net * (1 + rate) * 100) / 100;\n"
        "}\n"
    ),
    "src/price.test.ts": (
        'import { expect, test } from "vitest";\n'
        'import { gross } from "./price";\n\n'
        'test("adds the tax", () => { expect(gross(10)).toBe(12); });\n'
        'test("takes a rate", () => { expect(gross(10, 0.1)).toBe(11); });\n'
        'test("refuses what is negative", () => { expect(() => gross(-1)).toThrow("negative"); });\n'
    ),
}

JAVASCRIPT: Project = {
    "package.json": '{"name": "shop", "scripts": {"test": "node --test", "build": "node build.js"}}\n',
    "build.js": 'require("node:fs").writeFileSync("out.js", String(require("./price.js").gross));\n',
    "price.js": "exports.gross = (net) => net * 1.2;\nexports.net = (gross) => gross / 1.2;\n",
    "price.test.js": (
        'const test = require("node:test"); const assert = require("node:assert");\n'
        'const { gross, net } = require("./price.js");\n'
        'test("adds the tax", () => assert.equal(gross(10), 12));\n'
        'test("takes it off", () => assert.equal(net(12), 10));\n'
    ),
}

GO: Project = {
    "go.mod": "module example.org/shop\n\ngo 1.19\n",
    "price.go": (
        "// Package shop knows prices.\npackage shop\n\n"
        "// Gross adds the tax, in percent.\nfunc Gross(net, rate int) int {\n"
        "\tif net < 0 {\n\t\treturn 0\n\t}\n\treturn net + net*rate/100\n}\n"
    ),
    "price_test.go": (
        'package shop\n\nimport "testing"\n\n'
        "func TestGross(t *testing.T) {\n\tif Gross(100, 20) != 120 {\n\t\tt.Fatal()\n\t}\n}\n\n"
        "func TestNegative(t *testing.T) {\n\tif Gross(-1, 20) != 0 {\n\t\tt.Fatal()\n\t}\n}\n"
    ),
    "integration/shop_test.go": (
        'package integration\n\nimport (\n\t"testing"\n\n\t"example.org/shop"\n)\n\n'
        "func TestShop(t *testing.T) {\n\tif shop.Gross(50, 10) != 55 {\n\t\tt.Fatal()\n\t}\n}\n"
    ),
}

RUST: Project = {
    "Cargo.toml": '[package]\nname = "shop"\nversion = "0.1.0"\nedition = "2021"\n',
    "src/lib.rs": (
        "pub fn gross(net: i32, rate: i32) -> i32 {\n    net + net * rate / 100\n}\n\n"
        "#[cfg(test)]\nmod tests {\n    #[test]\n    fn adds_the_tax() {\n"
        "        assert_eq!(super::gross(100, 20), 120);\n    }\n}\n"
    ),
    "tests/whole.rs": "#[test]\nfn whole() {\n    assert_eq!(shop::gross(50, 10), 55);\n}\n",
}

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>org.example</groupId>
  <artifactId>shop</artifactId>
  <version>1</version>
  <properties>
    <maven.compiler.source>11</maven.compiler.source>
    <maven.compiler.target>11</maven.compiler.target>
    <project.build.sourceEncoding>UTF-8</project.build.sourceEncoding>
  </properties>
  <dependencies>
    <dependency>
      <groupId>junit</groupId><artifactId>junit</artifactId><version>4.13.2</version><scope>test</scope>
    </dependency>
  </dependencies>
</project>
"""

JAVA: Project = {
    "pom.xml": _POM,
    # Debian's packages of the plugins and of JUnit are a repository that needs no network.
    ".mvn/maven.config": "-Dmaven.repo.local=/usr/share/maven-repo\n",
    "src/main/java/shop/Price.java": (
        "package shop;\n\npublic class Price {\n    public static int gross(int net, int rate) {\n"
        "        return net + net * rate / 100;\n    }\n}\n"
    ),
    "src/test/java/shop/PriceTest.java": (
        "package shop;\n\nimport static org.junit.Assert.assertEquals;\n\nimport org.junit.Test;\n\n"
        "public class PriceTest {\n    @Test\n    public void addsTheTax() {\n"
        "        assertEquals(120, Price.gross(100, 20));\n    }\n\n"
        "    @Test\n    public void takesARate() {\n        assertEquals(55, Price.gross(50, 10));\n"
        "    }\n}\n"
    ),
}
