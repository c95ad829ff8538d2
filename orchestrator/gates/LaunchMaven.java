// Run Maven on a checkout by the base's project files and report on its tests; runs inside a sandbox, as
// `java .orchestrator-gate/LaunchMaven.java mvn ...`, on the standard library of any Java from 11 on.
// The candidate's pom.xml gives its dependencies, modules and new properties; all that says how the project is
// built and tested is the base's. The results are read from what surefire and jacoco wrote, and told after
// Maven's end under a name that only this process knows.

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Properties;
import java.util.Set;
import javax.xml.parsers.DocumentBuilder;
import javax.xml.parsers.DocumentBuilderFactory;
import javax.xml.transform.TransformerFactory;
import javax.xml.transform.dom.DOMSource;
import javax.xml.transform.stream.StreamResult;
import org.w3c.dom.Document;
import org.w3c.dom.Element;
import org.w3c.dom.Node;

public class LaunchMaven {
    static final Path PLACE = Path.of(".orchestrator-gate");
    static final List<String> THEIRS = List.of("dependencies", "dependencyManagement", "modules");
    static DocumentBuilder parser;

    static class Refused extends Exception {
        Refused(String text) {
            super(text);
        }
    }

    public static void main(String[] command) throws Exception {
        Properties order = new Properties();
        try (var reader = Files.newBufferedReader(PLACE.resolve("order"))) {
            order.load(reader);
        }
        Files.delete(PLACE.resolve("order"));
        var factory = DocumentBuilderFactory.newInstance();
        factory.setFeature("http://apache.org/xml/features/disallow-doctype-decl", true);
        parser = factory.newDocumentBuilder();
        parser.setErrorHandler(null);
        List<Path> modules = new ArrayList<>();
        try {
            for (String name : order.getProperty("poms").split("\n")) {
                restore(PLACE.resolve("base").resolve(name), Path.of(name));
            }
            for (Path pom : poms(Path.of(""), new HashSet<>())) {
                modules.add(pom.toAbsolutePath().getParent());
                remove(pom.toAbsolutePath().resolveSibling("target"));
            }
        } catch (Refused refused) {
            System.err.println("orchestrator: " + refused.getMessage());
            System.exit(125);
        }
        Process maven = null;
        try {
            maven = new ProcessBuilder(command).inheritIO().start();
        } catch (IOException missing) {
            System.err.println("orchestrator: " + command[0] + " is not installed");
            System.exit(127);
        }
        int status = maven.waitFor();
        String reports = order.getProperty("reports");
        if (!reports.isEmpty()) {
            System.out.print("\n\u001e" + order.getProperty("nonce") + " " + results(modules, reports) + "\n");
            System.out.flush();
        }
        System.exit(status);
    }

    /** Writes the base's project file with what the candidate's may say. */
    static void restore(Path base, Path candidate) throws Exception {
        Element ours = parser.parse(base.toFile()).getDocumentElement();
        Element theirs = read(candidate);
        if (theirs != null) {
            for (String name : THEIRS) {
                take(ours, child(ours, name), child(theirs, name));
            }
            addProperties(ours, child(theirs, "properties"));
            // A module that the base has is built, whatever the candidate says.
            addModules(ours, child(parser.parse(base.toFile()).getDocumentElement(), "modules"));
        }
        remove(candidate.toAbsolutePath());
        Files.createDirectories(candidate.toAbsolutePath().getParent());
        TransformerFactory.newInstance()
                .newTransformer()
                .transform(new DOMSource(ours.getOwnerDocument()), new StreamResult(candidate.toFile()));
    }

    static Element read(Path candidate) throws Exception {
        if (!Files.exists(candidate)) {
            return null;
        }
        try {
            return parser.parse(candidate.toFile()).getDocumentElement();
        } catch (org.xml.sax.SAXException | IOException error) {
            throw new Refused(candidate + " of the candidate cannot be read: " + error.getMessage());
        }
    }

    static void take(Element into, Element old, Element fresh) {
        if (fresh == null) {
            return;
        }
        Node copy = into.getOwnerDocument().importNode(fresh, true);
        if (old == null) {
            into.appendChild(copy);
        } else {
            into.replaceChild(copy, old);
        }
    }

    static void addProperties(Element ours, Element theirs) {
        if (theirs == null) {
            return;
        }
        Element properties = child(ours, "properties");
        if (properties == null) {
            properties = (Element) ours.appendChild(ours.getOwnerDocument().createElement("properties"));
        }
        for (Element property : children(theirs)) {
            boolean decides = property.getTagName().matches("(?i).*(skip|test|surefire|failsafe|jacoco|checkstyle|argLine).*");
            if (!decides && child(properties, property.getTagName()) == null) {
                properties.appendChild(ours.getOwnerDocument().importNode(property, true));
            }
        }
    }

    static void addModules(Element ours, Element before) {
        if (before == null) {
            return;
        }
        Element modules = child(ours, "modules");
        Set<String> present = new HashSet<>();
        children(modules).forEach(module -> present.add(module.getTextContent().strip()));
        for (Element module : children(before)) {
            if (!present.contains(module.getTextContent().strip())) {
                modules.appendChild(ours.getOwnerDocument().importNode(module, true));
            }
        }
    }

    static Element child(Element parent, String name) {
        return children(parent).stream().filter(e -> e.getTagName().equals(name)).findFirst().orElse(null);
    }

    static List<Element> children(Element parent) {
        List<Element> found = new ArrayList<>();
        for (Node node = parent.getFirstChild(); node != null; node = node.getNextSibling()) {
            if (node instanceof Element) {
                found.add((Element) node);
            }
        }
        return found;
    }

    /** Returns the project files that Maven will read, from one down. */
    static List<Path> poms(Path directory, Set<Path> seen) throws Exception {
        List<Path> found = new ArrayList<>();
        Path pom = directory.resolve("pom.xml").normalize();
        if (!Files.isRegularFile(pom) || pom.isAbsolute() || pom.startsWith("..") || seen.size() > 500 || !seen.add(pom)) {
            return found;
        }
        found.add(pom);
        Element modules = child(read(pom), "modules");
        if (modules != null) {
            for (Element module : children(modules)) {
                found.addAll(poms(directory.resolve(module.getTextContent().strip()), seen));
            }
        }
        return found;
    }

    static void remove(Path path) throws IOException {
        if (Files.isDirectory(path, java.nio.file.LinkOption.NOFOLLOW_LINKS)) {
            try (var inner = Files.newDirectoryStream(path)) {
                for (Path entry : inner) {
                    remove(entry);
                }
            }
        }
        Files.deleteIfExists(path);
    }

    static String results(List<Path> modules, String reports) throws Exception {
        long tests = 0;
        long failed = 0;
        long skipped = 0;
        long missed = 0;
        long covered = 0;
        for (Path module : modules) {
            Path folder = module.resolve("target").resolve(reports);
            if (Files.isDirectory(folder)) {
                try (var files = Files.newDirectoryStream(folder, "TEST-*.xml")) {
                    for (Path file : files) {
                        Element suite = read(file);
                        tests += number(suite, "tests");
                        failed += number(suite, "failures") + number(suite, "errors");
                        skipped += number(suite, "skipped");
                    }
                }
            }
            Path lines = module.resolve("target/site/jacoco/jacoco.csv");
            if (Files.isRegularFile(lines)) {
                List<String> rows = Files.readAllLines(lines);
                for (String row : rows.subList(1, rows.size())) {
                    String[] cells = row.split(",");
                    missed += Long.parseLong(cells[7]);
                    covered += Long.parseLong(cells[8]);
                }
            }
        }
        String coverage = missed + covered == 0 ? "null" : String.valueOf(100.0 * covered / (missed + covered));
        return String.format(
                "{\"ran\": %d, \"failed\": %d, \"skipped\": %d, \"coverage\": %s}", tests - skipped, failed, skipped, coverage);
    }

    static long number(Element suite, String name) {
        String text = suite.getAttribute(name);
        return text.isEmpty() ? 0 : Long.parseLong(text);
    }
}
