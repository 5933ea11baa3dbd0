//! Building and searching one collection.

use std::path::Path;

use serde::Serialize;
use tantivy::collector::TopDocs;
use tantivy::query::QueryParser;
use tantivy::schema::{IndexRecordOption, STORED, Schema, TextFieldIndexing, TextOptions, Value};
use tantivy::snippet::SnippetGenerator;
use tantivy::{Index, IndexBuilder, IndexSettings, ReloadPolicy, TantivyDocument, doc};

use crate::chunk::chunks;
use crate::directory::Folder;
use crate::generation;
use crate::walk::documents;

/// Bytes of memory for building: below the component's own limit.
const BUILD_BYTES: usize = 64 << 20;
/// Skipped files that are named in an answer.
const NAMED_SKIPPED: usize = 20;
/// Bytes of a snippet.
const SNIPPET: usize = 200;

/// What an indexing did.
#[derive(Debug, PartialEq, Serialize)]
pub struct Report {
    pub files: usize,
    pub chunks: usize,
    pub skipped: Vec<String>,
    pub skipped_count: usize,
}

impl Report {
    pub fn text(&self) -> String {
        let mut text = format!("Indexed {} files in {} passages.", self.files, self.chunks);
        if self.skipped_count > 0 {
            text += &format!(" Left out {}:\n{}", self.skipped_count, self.skipped.join("\n"));
        }
        text
    }
}

/// A passage that fits a query.
#[derive(Debug, PartialEq, Serialize)]
pub struct Hit {
    /// `path:start-end`, to cite it by.
    pub id: String,
    pub path: String,
    pub title: String,
    pub start_line: u64,
    pub end_line: u64,
    pub score: f32,
    pub snippet: String,
    pub text: String,
}

/// The hits as a model reads them.
pub fn shown(hits: &[Hit]) -> String {
    if hits.is_empty() {
        return "No passage fits. Try other words.".to_owned();
    }
    let show =
        |hit: &Hit| format!("[{}] {} (score {:.2})\n{}\n", hit.id, hit.title, hit.score, hit.text.trim());
    hits.iter().map(show).collect::<Vec<_>>().join("\n")
}

fn schema() -> Schema {
    let mut schema = Schema::builder();
    let indexing = TextFieldIndexing::default()
        .set_tokenizer("en_stem")
        .set_index_option(IndexRecordOption::WithFreqsAndPositions);
    let text = TextOptions::default().set_indexing_options(indexing).set_stored();
    schema.add_text_field("text", text.clone());
    schema.add_text_field("title", text);
    schema.add_text_field("path", STORED);
    schema.add_u64_field("start_line", STORED);
    schema.add_u64_field("end_line", STORED);
    schema.build()
}

/// Indexes the documents below `path` into `collection`, and then takes the new index in place of the old.
pub fn build(
    root: &Path,
    path: &str,
    indexes: &Path,
    collection: &str,
    progress: &dyn Fn(&str),
) -> Result<Report, String> {
    let found = documents(root, path)?;
    progress(&format!("indexing {} files\n", found.documents.len()));
    let collection = indexes.join(collection);
    let folder =
        generation::create(&collection).map_err(|error| format!("no index can be written: {error}"))?;
    let written =
        write(&folder, &found.documents).map_err(|error| format!("the index was not written: {error}"));
    let count = match written {
        Ok(count) => count,
        Err(error) => {
            // What is half written must not stay; if it does, the next indexing removes it.
            let _ = std::fs::remove_dir_all(&folder);
            return Err(error);
        }
    };
    generation::publish(&collection, &folder)
        .map_err(|error| format!("the index was not published: {error}"))?;
    Ok(Report {
        files: found.documents.len(),
        chunks: count,
        skipped_count: found.skipped.len(),
        skipped: found.skipped.into_iter().take(NAMED_SKIPPED).collect(),
    })
}

fn write(folder: &Path, documents: &[crate::walk::Document]) -> tantivy::Result<usize> {
    let schema = schema();
    let field = |name: &str| schema.get_field(name);
    let (text, title, path) = (field("text")?, field("title")?, field("path")?);
    let (start, end) = (field("start_line")?, field("end_line")?);
    let settings = IndexSettings { docstore_compress_dedicated_thread: false, ..IndexSettings::default() };
    let mut writer = IndexBuilder::new()
        .schema(schema.clone())
        .settings(settings)
        .single_segment_index_writer(Folder(folder.to_owned()), BUILD_BYTES)?;
    let mut count = 0;
    for document in documents {
        for chunk in chunks(&document.text) {
            count += 1;
            writer.add_document(doc!(
                text => chunk.text, title => chunk.title, path => document.path.clone(),
                start => chunk.start_line as u64, end => chunk.end_line as u64,
            ))?;
        }
    }
    writer.finalize()?;
    Ok(count)
}

/// The `limit` passages of `collection` that fit `query` best.
pub fn search(indexes: &Path, collection: &str, query: &str, limit: usize) -> Result<Vec<Hit>, String> {
    let Some(folder) = generation::current(&indexes.join(collection)) else {
        return Err(format!("the collection `{collection}` has no index yet; call `index` first"));
    };
    find(&folder, query, limit)
        .map_err(|error| format!("the index of `{collection}` cannot be searched: {error}"))
}

fn find(folder: &Path, query: &str, limit: usize) -> tantivy::Result<Vec<Hit>> {
    let index = Index::open(Folder(folder.to_owned()))?;
    let searcher = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?.searcher();
    let schema = index.schema();
    let field = |name: &str| schema.get_field(name);
    let (text, title, path) = (field("text")?, field("title")?, field("path")?);
    let (start, end) = (field("start_line")?, field("end_line")?);
    // Lenient: whatever a model writes is words to look for, never a syntax error.
    let (query, _) = QueryParser::for_index(&index, vec![text, title]).parse_query_lenient(query);
    let mut snippets = SnippetGenerator::create(&searcher, &*query, text)?;
    snippets.set_max_num_chars(SNIPPET);
    let mut hits = Vec::new();
    for (score, address) in searcher.search(&query, &TopDocs::with_limit(limit).order_by_score())? {
        let document: TantivyDocument = searcher.doc(address)?;
        let string =
            |field| document.get_first(field).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
        let number = |field| document.get_first(field).and_then(|value| value.as_u64()).unwrap_or_default();
        let (path, start_line, end_line) = (string(path), number(start), number(end));
        hits.push(Hit {
            id: format!("{path}:{start_line}-{end_line}"),
            snippet: snippets.snippet_from_doc(&document).fragment().to_owned(),
            title: string(title),
            text: string(text),
            path,
            start_line,
            end_line,
            score,
        });
    }
    Ok(hits)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = tempfile::tempdir().expect("a folder");
            std::fs::create_dir_all(place.path().join("documents/guide")).expect("folders");
            let write = |name: &str, text: &[u8]| {
                std::fs::write(place.path().join("documents").join(name), text).expect("a file");
            };
            write(
                "guide/a.md",
                b"# Retries\nA failed request is retried three times.\n# Limits\nTen requests a second.\n",
            );
            write("b.txt", b"Nothing of interest.\n");
            write("c.bin", &[0, 1, 2]);
            write("d.md", &[0xff, 0xfe]);
            Self(place)
        }

        fn index(&self) -> Report {
            let folder = self.0.path();
            build(&folder.join("documents"), "", &folder.join("index"), "default", &|_| {}).expect("indexes")
        }

        fn search(&self, query: &str) -> Vec<Hit> {
            search(&self.0.path().join("index"), "default", query, 5).expect("searches")
        }
    }

    #[test]
    fn what_is_indexed_is_found_with_its_lines() {
        let place = Place::new();
        let report = place.index();
        assert_eq!((report.files, report.chunks, report.skipped_count), (2, 3, 2));
        let hits = place.search("how often are requests retried?");
        assert_eq!((hits[0].id.as_str(), hits[0].title.as_str()), ("guide/a.md:1-2", "Retries"));
        assert!(hits[0].snippet.contains("retried"), "{hits:?}");
    }

    #[test]
    fn a_hostile_query_is_only_words() {
        let place = Place::new();
        place.index();
        for query in ["\"", "a AND (", "text:[* TO", "\u{0}", "((((((", "-", "*:*"] {
            place.search(query);
        }
    }

    #[test]
    fn indexing_again_replaces_the_index() {
        let place = Place::new();
        place.index();
        std::fs::remove_file(place.0.path().join("documents/guide/a.md")).expect("removes");
        place.index();
        assert_eq!(place.search("retried"), []);
        let left = std::fs::read_dir(place.0.path().join("index/default")).expect("lists").count();
        assert_eq!(left, 2, "one generation and the file that names it");
    }

    #[test]
    fn a_collection_without_index_says_so() {
        let place = Place::new();
        let error = search(&place.0.path().join("index"), "default", "x", 5).expect_err("no index");
        assert_eq!(error, "the collection `default` has no index yet; call `index` first");
    }
}
