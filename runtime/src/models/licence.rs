//! What a model's licence asks of those who use it or pass it on: data per licence family.
//!
//! This is a reading by engineers of the published texts, not legal advice.

use serde::Serialize;

/// A licence family and its duties.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Licence {
    /// What the catalog calls it.
    pub family: &'static str,
    /// Its name.
    pub title: &'static str,
    /// Where its text is.
    pub url: &'static str,
    /// Where its acceptable use policy is, if it has one.
    pub use_policy: Option<&'static str>,
    /// The line to show wherever a product uses the model.
    pub built_with: Option<&'static str>,
    /// The text of the file `Notice` that goes with every copy of the model.
    pub notice: Option<&'static str>,
    /// How the name of a derived model must begin.
    pub derived_name: Option<&'static str>,
    /// What to do and what not to do.
    pub duties: &'static [&'static str],
    /// Who must ask for a licence of their own.
    pub size_rule: Option<&'static str>,
}

/// Every family, most used first.
pub const FAMILIES: [Licence; 4] = [LLAMA_3, LLAMA_3_1, LLAMA_3_2, APACHE_2_0];

const LLAMA_3: Licence = Licence {
    family: "llama3",
    title: "Meta Llama 3 Community License",
    url: "https://www.llama.com/llama3/license/",
    use_policy: Some("https://www.llama.com/llama3/use-policy/"),
    built_with: Some("Built with Meta Llama 3"),
    notice: Some(
        "Meta Llama 3 is licensed under the Meta Llama 3 Community License, Copyright © Meta Platforms, Inc. All Rights Reserved.",
    ),
    derived_name: Some("Llama 3"),
    duties: &[
        "Pass the licence text on with every copy of the model, and with a product or service that uses it.",
        "Show the line above prominently: on a website, user interface, blog post, about page or in the product's documentation.",
        "Keep the Notice text above in a file named `Notice` with every copy of the model.",
        "Begin the name of a model that you made or improved with it and pass on with `Llama 3`.",
        "Follow the acceptable use policy; it is part of the licence.",
        "Do not use the model or its output to improve another large language model, Llama 3 and its derivatives excepted.",
        "Use no trademark of Meta beyond the name above. The licence ends if you sue Meta over rights in Llama 3.",
    ],
    size_rule: Some(
        "Whoever had more than 700 million monthly active users, over all products of the company and its affiliates, in the calendar month before 18 April 2024 (the day of the Llama 3 release) must ask Meta for a licence. It was measured once, on that day; it is no running limit on the users of what you build.",
    ),
};

const LLAMA_3_1: Licence = Licence {
    family: "llama3.1",
    title: "Llama 3.1 Community License",
    url: "https://www.llama.com/llama3_1/license/",
    use_policy: Some("https://www.llama.com/llama3_1/use-policy/"),
    built_with: Some("Built with Llama"),
    notice: Some(
        "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright © Meta Platforms, Inc. All Rights Reserved.",
    ),
    derived_name: Some("Llama"),
    duties: &[
        "Pass the licence text on with every copy of the model, and with a product or service that uses it.",
        "Show the line above prominently: on a website, user interface, blog post, about page or in the product's documentation.",
        "Keep the Notice text above in a file named `Notice` with every copy of the model.",
        "Begin the name of a model that you trained or improved with it, or with its output, and pass on with `Llama`.",
        "Follow the acceptable use policy; it is part of the licence.",
        "Use no trademark of Meta beyond the name above. The licence ends if you sue Meta over rights in Llama 3.1.",
    ],
    size_rule: Some(
        "Whoever had more than 700 million monthly active users, over all products of the company and its affiliates, in the calendar month before 23 July 2024 (the day of the Llama 3.1 release) must ask Meta for a licence. It was measured once, on that day; it is no running limit on the users of what you build.",
    ),
};

const LLAMA_3_2: Licence = Licence {
    family: "llama3.2",
    title: "Llama 3.2 Community License",
    url: "https://www.llama.com/llama3_2/license/",
    use_policy: Some("https://www.llama.com/llama3_2/use-policy/"),
    built_with: Some("Built with Llama"),
    notice: Some(
        "Llama 3.2 is licensed under the Llama 3.2 Community License, Copyright © Meta Platforms, Inc. All Rights Reserved.",
    ),
    derived_name: Some("Llama"),
    duties: &[
        "Pass the licence text on with every copy of the model, and with a product or service that uses it.",
        "Show the line above prominently: on a website, user interface, blog post, about page or in the product's documentation.",
        "Keep the Notice text above in a file named `Notice` with every copy of the model.",
        "Begin the name of a model that you trained or improved with it, or with its output, and pass on with `Llama`.",
        "Follow the acceptable use policy; it is part of the licence.",
        "The rights in the multimodal models of 3.2 are not granted to persons or companies based in the European Union; the text-only models are not affected.",
        "Use no trademark of Meta beyond the name above. The licence ends if you sue Meta over rights in Llama 3.2.",
    ],
    size_rule: Some(
        "Whoever had more than 700 million monthly active users, over all products of the company and its affiliates, in the calendar month before 25 September 2024 (the day of the Llama 3.2 release) must ask Meta for a licence. It was measured once, on that day; it is no running limit on the users of what you build.",
    ),
};

const APACHE_2_0: Licence = Licence {
    family: "apache-2.0",
    title: "Apache License 2.0",
    url: "https://www.apache.org/licenses/LICENSE-2.0",
    use_policy: None,
    built_with: None,
    notice: None,
    derived_name: None,
    duties: &[
        "Pass the licence text and the model's own notices on with every copy.",
        "Say in changed files that you changed them.",
    ],
    size_rule: None,
};

/// The family that the catalog calls `name`.
pub fn family(name: &str) -> Option<&'static Licence> {
    FAMILIES.iter().find(|licence| licence.family == name)
}

/// The family of a model outside the catalog, guessed from the licence or the name that its file states.
///
/// A name that says Llama 3 decides before a licence tag: quantised copies often carry a wrong tag.
pub fn guess(stated_licence: Option<&str>, stated_name: Option<&str>) -> Option<&'static Licence> {
    let name = stated_name.unwrap_or_default().to_lowercase().replace([' ', '_', '-'], "");
    let by_name =
        [("llama3.1", "llama3.1"), ("llama3.2", "llama3.2"), ("llama38b", "llama3"), ("llama370b", "llama3")];
    (by_name.iter().find(|(part, _)| name.contains(part)).and_then(|(_, found)| family(found)))
        .or_else(|| family(&stated_licence?.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(licence: Option<&str>, name: Option<&str>, expected: Option<&str>) {
        assert_eq!(guess(licence, name).map(|found| found.family), expected);
    }

    #[test]
    fn a_name_decides_before_a_tag() {
        check(Some("apache-2.0"), Some("Meta Llama 3.1 8B Instruct"), Some("llama3.1"));
        check(None, Some("Meta-Llama-3-8B-Instruct"), Some("llama3"));
        check(None, Some("Llama 3.2 1B"), Some("llama3.2"));
    }

    #[test]
    fn a_tag_decides_for_other_names() {
        check(Some("Apache-2.0"), Some("SmolLM2 135M"), Some("apache-2.0"));
    }

    #[test]
    fn nothing_stated_is_nothing_guessed() {
        check(None, Some("mystery"), None);
    }

    #[test]
    fn every_notice_names_its_licence() {
        for licence in FAMILIES.iter().filter(|licence| licence.notice.is_some()) {
            let notice = licence.notice.expect("filtered above");
            assert!(notice.contains(licence.title), "{}", licence.family);
            assert!(notice.ends_with("Copyright © Meta Platforms, Inc. All Rights Reserved."));
        }
    }
}
